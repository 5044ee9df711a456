"""Asking through a gateway over real sockets: retries, versions, keys, and every failure in one line."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from adapters.errors import Conflict, EngineUnavailable, NotFound
from adapters.keys import create_key, list_keys
from tests.support.suites import V, make_suite
from trainer.evaluation import gateway
from trainer.evaluation.answers import asks
from trainer.evaluation.gateway import GatewayAnswers, operator_key
from trainer.installation import Installation

LOADED = (200, {"version": V, "ok": True, "engines": [{"engine": "0", "ok": True, "verdict": "match", "error": ""}]})


def answer(body, version=V, text="4"):
    """What the gateway answers to a chat request."""
    logprobs = {"content": [{"token": "4", "logprob": math.log(0.5)}, {"token": "</s>", "logprob": math.log(0.5)}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": logprobs}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return 200, {"id": "x", "choices": [choice], "usage": usage}, {"x-understudy-version": version}


def refusal(status, message="no", **headers):
    return status, {"error": {"message": message, "type": "t", "param": None, "code": None}}, headers


class Server:
    """One port that plays data plane and operator API as scripted: `chat(body, number)` answers request `number`."""

    def __init__(self, chat, verify=LOADED):
        self.bodies, self.headers, self.verified = [], [], []
        script, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                with lock:
                    if self.path.endswith("/verify"):
                        script.verified.append((self.path, self.headers["authorization"]))
                        made = verify
                    else:
                        script.headers.append(dict(self.headers))
                        script.bodies.append(json.loads(body))
                        made = chat(script.bodies[-1], len(script.bodies))
                status, value, headers = (*made, {})[:3]
                sent = json.dumps(value).encode()
                with contextlib.suppress(ConnectionError):  # an evaluation that ended has hung up
                    self.send_response(status)
                    for name, text in {**headers, "content-length": str(len(sent))}.items():
                        self.send_header(name, text)
                    self.end_headers()
                    self.wfile.write(sent)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Ask a scripted server; returns (answers by key, server)."""
    servers = []
    monkeypatch.setattr(gateway, "_WAITS", (0.01,) * 5)

    def run(chat, verify=LOADED, n=6, model=V, expected=V, **options):
        server = Server(chat, verify)
        servers.append(server)
        place = {"host": "127.0.0.1", "port": server.port}
        installation = Installation(data_dir=tmp_path, gateway=place, control={**place, "operator_token": "secret"})
        found = {}
        answering = GatewayAnswers(installation, model, "a-key", expected=expected, **options)
        answering.run(asks(make_suite(tmp_path, n=n)), lambda one, said: found.__setitem__(one.key, said))
        return found, server

    yield run
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


def test_what_is_asked_and_read(ask):
    found, server = ask(lambda body, number: answer(body))
    assert len(found) == 6
    first = found["sums/0/0"]
    assert (first.text, first.finish, first.input_tokens, first.output_tokens, first.error) == ("4", "stop", 5, 2, "")
    assert first.confidence("sequence") == pytest.approx(0.25) and first.logprob_tokens == 2 and first.seconds > 0
    assert server.verified == [(f"/api/v1/adapters/{V}/verify", "Bearer secret")]
    body = next(body for body in server.bodies if body["messages"][0]["content"] == "sums 0")
    assert {key: body[key] for key in ("model", "max_tokens", "temperature", "top_p", "logprobs")} == {
        "model": V, "max_tokens": 256, "temperature": 1.0, "top_p": 1.0, "logprobs": True,
    }  # fmt: skip
    assert len({body["seed"] for body in server.bodies}) == 6
    assert server.headers[0]["authorization"] == "Bearer a-key"


def test_the_base_is_not_loaded_by_name(ask):
    found, server = ask(lambda body, number: answer(body, "base@0123456789ab"), model="base", expected="base@0123456789ab")
    assert len(found) == 6 and server.verified == [] and server.bodies[0]["model"] == "base"


def test_busy_and_broken_connections_are_tried_again(ask):
    statuses = {1: 429, 2: 503, 3: 502, 4: 504}
    found, server = ask(
        lambda body, number: refusal(statuses[number], **{"retry-after": "0"}) if number in statuses else answer(body)
    )
    assert len(found) == 6 and not any(said.error for said in found.values()) and len(server.bodies) == 10


def test_a_version_may_take_a_moment_to_be_routed_to(ask):
    found, server = ask(lambda body, number: refusal(404) if number < 4 else answer(body), concurrency=1)
    assert len(found) == 6 and len(server.bodies) == 9


def test_a_refused_prompt_is_a_wrong_answer(ask):
    found, _ = ask(lambda body, number: refusal(400, "too long") if "3" in body["messages"][0]["content"] else answer(body))
    assert found["sums/3/0"].error == "400: too long"
    assert sum(bool(said.error) for said in found.values()) == 1


@pytest.mark.parametrize(
    ("chat", "error", "message"),
    [
        (lambda body, number: refusal(503, "no engine is up"), EngineUnavailable, "answered 503: no engine is up"),
        (lambda body, number: refusal(403, "needs operator"), EngineUnavailable, "answered 403: needs operator"),
        (lambda body, number: answer(body, "support@ffffffffffff"), Conflict, f"{V} was asked, but support@ffff.* answered"),
        (lambda body, number: answer(body, ""), Conflict, "something without a version answered"),
        (lambda body, number: (502, "rubbish", {}), EngineUnavailable, "answered 502: .*is it Understudy's"),
    ],
)
def test_what_ends_an_evaluation(ask, chat, error, message):
    with pytest.raises(error, match=message) as caught:
        ask(chat, n=12)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("verify", "error", "message"),
    [
        (refusal(404, f"version {V} does not exist"), NotFound, "does not exist"),
        (refusal(409, f"version {V} is archived"), Conflict, "is archived"),
        ((200, {"engines": [{"engine": "0", "ok": False, "error": "it does not reproduce"}]}), EngineUnavailable,
         "cannot be loaded on 0: it does not reproduce"),
    ],
)  # fmt: skip
def test_a_version_that_cannot_be_loaded_is_not_asked(ask, verify, error, message):
    with pytest.raises(error, match=message):
        ask(lambda body, number: answer(body), verify)


def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "_WAITS", (0.01,) * 5)
    free = Server(lambda body, number: answer(body))
    free.server.server_close()
    free.server.shutdown()
    place = {"host": "127.0.0.1", "port": free.port}
    installation = Installation(data_dir=tmp_path, gateway=place, control={**place, "operator_token": "secret"})
    for model, who in ((V, "controller"), ("base", "gateway")):
        with pytest.raises(EngineUnavailable, match=f"no {who} answers at http://127.0.0.1:.*start `understudy up`"):
            GatewayAnswers(installation, model, "", expected=V).run(asks(make_suite(tmp_path, n=3)), lambda a, b: None)


def test_half_a_character_is_replaced(ask):
    found, _ = ask(lambda body, number: answer(body, text="a\ud83d\0b"), n=1)
    assert found["sums/0/0"].text == "a?\ufffdb"


def test_keys_of_killed_evaluations_are_revoked(database, monkeypatch):
    create_key(database, gateway.OWNER, ["operator"])
    other, _ = create_key(database, "somebody", ["operator"])
    monkeypatch.setattr(gateway, "FORGOTTEN_AFTER", -1.0)
    with operator_key(database, "", True):
        pass
    assert [key.id for key in list_keys(database) if key.revoked_at is None] == [other.id]


def test_a_key_for_the_evaluation_only(database):
    with operator_key(database, "given", True) as key:
        assert key == "given"
    with operator_key(database, "", False) as key:
        assert key == ""
    assert list_keys(database) == []
    with operator_key(database, "", True) as key:
        assert key and list_keys(database)[0].revoked_at is None
    (made,) = list_keys(database)
    assert made.revoked_at is not None and made.scopes == {"inference", "operator"}
