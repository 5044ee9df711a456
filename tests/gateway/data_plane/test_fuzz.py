"""The parsers of both sides under wrong input, a little of it: `python -m tests.fuzz` does as much as one likes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.data_plane.endpoints import CHAT
from gateway.data_plane.envelope import render, translate
from gateway.data_plane.protocol import last_user_text, parse, rewrite, top_level
from gateway.data_plane.texts import answer_text, prompt_messages
from gateway.errors import ApiError
from tests.fuzz.__main__ import run
from tests.fuzz.live import CONFIG, LIVE, Limits, fuzz
from tests.fuzz.parsers import TARGETS
from tests.support.serving import Gateway, serving

SEED = 20261125
MOST = {"config": 300, "stream": 800, "broken": 800}  # the others: 4000


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_parser_under_wrong_input(name: str) -> None:
    assert run(name, SEED, most=MOST.get(name, 4000)) == MOST.get(name, 4000)


def test_a_failure_names_what_makes_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def target(mutator: object) -> None:
        raise AssertionError

    monkeypatch.setitem(TARGETS, "broken", (target, [b"x"], []))
    with pytest.raises(AssertionError) as caught:
        run("broken", 7, most=3)
    assert caught.value.__notes__ == ["fuzz target broken, seed 7, input 0"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("serve"), config=CONFIG) as running:
        running.publish({})
        yield running.start()


@pytest.mark.parametrize("name", list(LIVE))
async def test_a_gateway_under_fire(gateway: Gateway, name: str) -> None:
    limits = Limits(most=400, seconds=240.0)
    await fuzz(gateway, name, SEED, limits)
    assert limits.done == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("modelstrancx_", max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
FIELDS = st.dictionaries(
    st.sampled_from(["messages", "input", "prompt", "instructions", "system", "metadata", "stream_options", "user", "max_tokens"]),
    JSON, max_size=5,
)  # fmt: skip


@settings(max_examples=300)
@given(FIELDS, st.booleans())
def test_any_json_of_a_client_is_read_without_a_bug(fields: dict[str, object], stream: bool) -> None:
    """Texts for rules, graders and estimates come from fields that only the engine checks."""
    body = json.dumps({**fields, "model": "support", "stream": stream}).encode()
    try:
        request = parse(CHAT, body, 16)
    except ApiError as error:
        assert error.status == 400
        return
    assert {key: json.loads(body[start:end]) for key, start, end in top_level(body)} == json.loads(body)
    assert isinstance(last_user_text(request.fields), str) and request.estimated_tokens() >= 0
    for endpoint in ("chat", "completions", "responses", "messages"):
        assert isinstance(prompt_messages(endpoint, request.fields), list)
    assert json.loads(rewrite(request, b'"x"', "id"))["model"] == "x"


@settings(max_examples=200)
@given(JSON, st.integers(100, 599))
def test_any_json_of_an_engine_is_an_answer_or_an_error(body: object, status: int) -> None:
    data = json.dumps(body).encode()
    for endpoint in ("chat", "completions", "responses", "messages"):
        assert isinstance(answer_text(endpoint, data), str)
    for shape in (data, b'{"error":%b}' % data, b'{"detail":[%b]}' % data, b'{"error":{"message":%b}}' % data):
        assert 400 <= render(translate(status, shape, "support", "support@aaaaaaaaaaaa"))[0] < 600
