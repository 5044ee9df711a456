"""Retries, refusals, keys and rubbish, against a real server."""

from __future__ import annotations

import threading

import pytest

from adapters.errors import ConfigError, GraderError, GraderUnavailable
from monitors.rewards import http_client
from monitors.rewards.http_client import Client, Refused, key_from
from tests.support.ports import free_port
from tests.support.scripted_http import scripted
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waits are noted instead of waited."""
    waits = []
    monkeypatch.setattr(http_client, "sleep", waits.append)
    return waits


def client(url, **options):
    return Client("judge", url, timeout=options.pop("timeout", PATIENCE), **options)


def test_a_busy_server_is_asked_again_when_it_says_so(quick):
    replies = [(429, {}, {"retry-after": "7"}), (503, b"x"), (500, {}, {"retry-after": "999"}), (200, {"ok": 1})]
    with scripted(lambda *_: replies.pop(0)) as server:
        assert client(server.url).post("/x", {"a": "é\ud800"}) == {"ok": 1}
        assert [body for _, _, body in server.asked] == [{"a": "é?"}] * 4
    assert quick[0] == 7.0 and 0.3 < quick[1] < 0.7 and quick[2] == 20.0


def test_it_gives_up_with_the_reason():
    with scripted(lambda *_: (503, {"error": {"message": "no GPU\nis free"}})) as server:
        with pytest.raises(GraderUnavailable, match=r"reward 'judge': http.* cannot be asked now: status 503: no GPU is free"):
            client(server.url).post("/x", {})
        assert len(server.asked) == 4
    with pytest.raises(GraderUnavailable, match=r"cannot be asked now: .*refused"):
        client(f"http://127.0.0.1:{free_port()}").post("/x", {})


def test_a_slow_server():
    gone = threading.Event()  # it answers once the client has gone: a client that looks late finds no answer either
    with scripted(lambda *_: (200, {"gone": gone.wait(PATIENCE)})) as server:
        with pytest.raises(GraderUnavailable, match="timed out"):
            client(server.url, timeout=0.05, attempts=2).post("/x", {})
        gone.set()


@pytest.mark.parametrize(("status", "kind"), [(400, Refused), (413, Refused), (422, Refused), (401, GraderError), (404, GraderError)])
def test_a_refusal_is_not_repeated(status, kind):
    with scripted(lambda *_: (status, {"error": "wrong key"})) as server:
        with pytest.raises(kind, match=f"refuses: status {status}: wrong key") as caught:
            client(server.url).post("/x", {})
        assert len(server.asked) == 1 and (type(caught.value) is kind)


@pytest.mark.parametrize("rubbish", [b"", b"<html>", b"[1]", b'"x"', b"{" * 9, b"[" * 200_000, b"\xff"])
def test_rubbish_is_no_answer(rubbish):
    with scripted(lambda *_: (200, rubbish)) as server, pytest.raises(GraderUnavailable, match="not with JSON"):
        client(server.url, attempts=1).post("/x", {})


def test_keys_come_from_the_environment_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("UNDERSTUDY_JUDGE_API_KEY", " one\n")
    with scripted(lambda *_: (200, {})) as server:
        client(server.url, key_variable="UNDERSTUDY_JUDGE_API_KEY").post("/x", {})
        client(server.url, key_variable="UNDERSTUDY_JUDGE_API_KEY", key="direct").post("/x", {})
        client(server.url, key_variable="NOT_SET").post("/x", {})
        assert [headers.get("authorization") for _, headers, _ in server.asked] == ["Bearer one", "Bearer direct", None]
    monkeypatch.delenv("UNDERSTUDY_JUDGE_API_KEY")
    (tmp_path / "key").write_text("two\n")
    monkeypatch.setenv("UNDERSTUDY_JUDGE_API_KEY_FILE", str(tmp_path / "key"))
    assert key_from("UNDERSTUDY_JUDGE_API_KEY") == "two"
    monkeypatch.setenv("UNDERSTUDY_JUDGE_API_KEY_FILE", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="gone cannot be read"):
        key_from("UNDERSTUDY_JUDGE_API_KEY")


def test_what_is_no_url():
    with pytest.raises(ConfigError, match="'localhost:8000' is no http or https URL"):
        client("localhost:8000")
