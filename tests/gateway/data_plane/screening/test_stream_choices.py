"""Several choices in one stream: each is judged by itself, whatever comes when."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.types import Flag
from monitors.conventions import Outcome
from tests.support.screening import DONE, SAFE, SSE, UNSAFE, Screened, chat, events

BAD = "krund"
SAYS = st.lists(st.sampled_from(["a ", "kr", "und ", BAD, "é", "x" * 20]), max_size=12)


def said(screened: Screened, choice: int) -> tuple[str, list[str]]:
    """(content, finish reasons) of a choice, as the client has them."""
    found = [c for e in events(screened.out) if e != "[DONE]" for c in e["choices"] if c["index"] == choice]
    text = "".join(c["delta"].get("content") or "" for c in found)
    return text, [c["finish_reason"] for c in found if c["finish_reason"]]


@settings(max_examples=200)
@given(one=SAYS, two=SAYS, data=st.data(), checkpoint=st.integers(1, 12), together=st.booleans())
def test_each_choice_is_judged_by_itself(
    one: list[str], two: list[str], data: st.DataObject, checkpoint: int, together: bool
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "n": 2}
    screened = Screened(body=body, checkpoint=checkpoint)

    def guard() -> None:
        waiting = screened.open
        if waiting:
            place = data.draw(st.integers(0, len(waiting) - 1))
            screened.answer(*[UNSAFE if BAD in text else SAFE for text in waiting[place].texts], place=place)

    screened.gate.start(200, SSE)
    left = {0: [*one], 1: [*two]}
    parts: list[bytes] = []
    while left:
        index = data.draw(st.sampled_from(sorted(left)))
        parts.append(chat(left[index].pop(0), index) if left[index] else chat(end="stop", index=index))
        if b'"stop"' in parts[-1]:
            del left[index]
        if not together or not left:
            if not screened.relay.over:
                screened.gate.write(b"".join(parts))
            parts = []
            if data.draw(st.booleans()):
                guard()
        assert BAD not in screened.out.decode()
    if not screened.relay.over:
        screened.gate.write(DONE)
        screened.relay.end()
    while screened.open:
        guard()
    texts = ["".join(one), "".join(two)]
    for index, text in enumerate(texts):
        content, reasons = said(screened, index)
        assert reasons == (["content_filter"] if BAD in text else ["stop"]) and BAD not in content
        assert content == text or BAD in text
    assert screened.finished and screened.out.endswith(DONE) and screened.out.count(DONE) == 1
    (done,) = screened.accounts
    unsafe = sum(BAD in text for text in texts)
    assert done.outcome is (Outcome.BLOCKED if unsafe == 2 else Outcome.OK)
    assert bool(done.flags & Flag.GUARD) is (unsafe > 0)
