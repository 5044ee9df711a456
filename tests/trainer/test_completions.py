"""The client of the engine that samples: names, errors, and the alarm, against a scripted server that speaks HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from adapters.errors import EngineRefused, EngineUnavailable, TrainingError
from tests.support.waiting import PATIENCE
from trainer.completions import EngineSampler, GapAlarm
from trainer.engine_client import Engine, check_engine
from trainer.rl_settings import CompletionsSettings


class Scripted:
    """Speaks the four endpoints; `answers` replaces some of them with (status, body)."""

    def __init__(self):
        self.calls, self.loaded, self.answers, self.keys = [], {}, {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(None)

            def do_POST(self):
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body):
                outer.keys.append(self.headers.get("Authorization"))
                status, said = outer.answers.get(self.path) or outer.respond(self.path, body)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                """A client that does not wait is what a test wants."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def respond(self, path, body):
        if path == "/v1/models":
            return 200, {"data": [{"id": "base", "root": "base"}] + [{"id": n, "root": r} for n, r in self.loaded.items()]}
        self.calls.append((path, body))
        if path == "/v1/load_lora_adapter":
            assert Path(body["lora_path"], "adapter_model.safetensors").exists()
            self.loaded[body["lora_name"]] = body["lora_path"]
            return 200, b"Success"
        if path == "/v1/unload_lora_adapter":
            found = self.loaded.pop(body["lora_name"], None)
            return (200, b"Success") if found else (404, {"error": {"message": "adapter cannot be found"}})
        choices = [self.choice(i) for i in range(len(body["prompt"]) * body["n"])]
        return 200, {"choices": choices[::-1]}

    @staticmethod
    def choice(i):
        return {"index": i, "token_ids": [10 + i, 2], "text": f"t{i}", "logprobs": {"token_logprobs": [-0.5, None]}}

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Scripted()
    yield made
    made.close()


def save(folder):
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")


@pytest.fixture
def sampler(server, tmp_path):
    made = EngineSampler(CompletionsSettings(source="vllm", url=server.url), "support-1", tmp_path, save)
    yield made
    made.close()


def test_each_step_is_loaded_under_a_new_name_and_the_old_one_goes(server, sampler, tmp_path):
    for step in (0, 0, 1):
        sampler.sync(step)
    loads = [body for path, body in server.calls if path == "/v1/load_lora_adapter"]
    assert [body["lora_name"].rpartition("-")[2] for body in loads] == ["0", "1"]
    assert server.loaded == {loads[1]["lora_name"]: loads[1]["lora_path"]}
    assert not Path(loads[0]["lora_path"]).exists()
    other = EngineSampler(CompletionsSettings(source="vllm", url=server.url), "support-1", tmp_path / "other", save)
    other.sync(1)
    assert other.loaded not in {body["lora_name"] for body in loads}  # not even by the same run, started again
    other.close()
    assert list(server.loaded) == [sampler.loaded]
    sampler.close()
    assert server.loaded == {}
    assert [path.name for path in tmp_path.rglob("*")] == ["other"]


def test_what_a_killed_process_left_on_the_engine_is_taken_off(server, tmp_path):
    settings = CompletionsSettings(source="vllm", url=server.url)
    killed = EngineSampler(settings, "support-1", tmp_path, save)
    killed.sync(4)
    again = EngineSampler(settings, "support-1", tmp_path, save)
    assert server.loaded == {}
    again.sync(4)
    assert list(server.loaded) == [again.loaded]
    again.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "engine.json").write_text('{"names"')
    EngineSampler(settings, "support-1", tmp_path, save).close()


def test_answers_come_in_the_order_of_the_prompts(server, sampler):
    sampler.sync(0)
    found = sampler.sample([[1, 2], [3]], samples=2, max_tokens=4, temperature=0.5, seed=7, top_p=0.9)
    assert [[answer.ids[0] for answer in several] for several in found] == [[10, 11], [12, 13]]
    assert [several[0].prompt_ids for several in found] == [(1, 2), (3,)]
    assert found[0][0].logprobs[0] == -0.5
    assert found[0][0].logprobs[1] != found[0][0].logprobs[1]  # a logprob the engine could not compute
    body = server.calls[-1][1]
    assert (body["model"], body["n"], body["top_p"], body["seed"]) == (sampler.loaded, 2, 0.9, 7)
    assert body["return_token_ids"] is True


def test_an_engine_that_sees_the_folder_elsewhere(server, tmp_path):
    settings = CompletionsSettings(
        source="vllm", url=server.url, shared_dir=str(tmp_path / "here"), engine_dir=str(tmp_path / "there"), api_key="k"
    )
    (tmp_path / "there").symlink_to(tmp_path / "here")
    made = EngineSampler(settings, "support-1", tmp_path / "unused", save)
    made.sync(3)
    assert server.calls[0][1]["lora_path"].startswith(str(tmp_path / "there" / "hot-"))
    assert set(server.keys) == {"Bearer k"}
    made.close()


NOT_FOUND = (404, {"detail": "Not Found"})
NO_FILES = (404, {"error": {"message": "No adapter found for /x", "type": "NotFoundError", "code": 404}})


@pytest.mark.parametrize(
    ("path", "answer", "error", "message"),
    [
        ("/v1/load_lora_adapter", NOT_FOUND, TrainingError, "no run-time LoRA: start it with --enable-lora"),
        ("/v1/load_lora_adapter", NO_FILES, TrainingError, "No adapter found for /x; does it see this folder"),
        ("/v1/load_lora_adapter", (500, b"boom"), TrainingError, "status 500: boom; does it see"),
        ("/v1/load_lora_adapter", (200, b"ok"), TrainingError, "said that it loaded .*, but does not list it"),
        ("/v1/models", (401, {"error": "Unauthorized"}), EngineRefused, "status 401: Unauthorized"),
        ("/v1/models", (200, {"models": []}), EngineUnavailable, "is it a vLLM"),
        ("/v1/models", (200, b"<html>"), EngineUnavailable, "no JSON: is it a vLLM"),
        ("/v1/completions", (200, {"choices": [{}]}), EngineUnavailable, "without choices"),
        ("/v1/completions", (200, {"choices": []}), EngineUnavailable, "gave 0 of 2 completions"),
        ("/v1/completions", (200, {"choices": [{"index": i} for i in range(2)]}), EngineUnavailable, "0.10.2 or newer"),
        ("/v1/completions", (400, {"error": {"message": "too long"}}), EngineRefused, "status 400: too long"),
    ],
)
def test_what_goes_wrong_is_one_clear_line(server, sampler, path, answer, error, message):
    if path == "/v1/completions":
        sampler.sync(0)
    server.answers[path] = answer
    with pytest.raises(error, match=message) as caught:
        sampler.sync(0)
        sampler.sample([[1]], samples=2, max_tokens=4, temperature=1.0, seed=7)
    assert "\n" not in str(caught.value)


def test_tokens_without_logprobs_are_refused(server, sampler):
    sampler.sync(0)
    short = {**Scripted.choice(0), "logprobs": {"token_logprobs": [-0.5]}}
    server.answers["/v1/completions"] = (200, {"choices": [short]})
    with pytest.raises(EngineUnavailable, match="2 tokens with 1 logprobs"):
        sampler.sample([[1]], samples=1, max_tokens=4, temperature=1.0, seed=7)


def test_an_engine_that_is_away(server):
    check_engine(CompletionsSettings(source="vllm", url=server.url))
    server.close()
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        check_engine(CompletionsSettings(source="vllm", url=server.url))
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        Engine(CompletionsSettings(source="vllm", url="unix:/nowhere/engine.sock")).models()


def test_an_engine_that_hangs_is_not_waited_for(server):
    quick = Engine(CompletionsSettings(source="vllm", url=server.url, timeout=0.2))
    wait = threading.Event()
    server.respond = lambda path, body: (wait.wait(PATIENCE), (200, {}))[1]
    with pytest.raises(EngineUnavailable, match=r"within 0\.2 s"):
        quick.complete({})
    wait.set()
    quick.close()


def test_closing_without_an_engine_is_no_error(server, tmp_path):
    made = EngineSampler(CompletionsSettings(source="vllm", url=server.url), "support-1", tmp_path, save)
    made.sync(0)
    server.close()
    made.close()
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]  # for the next start


def test_a_gap_is_forgiven_for_a_while():
    alarm = GapAlarm(CompletionsSettings(max_logprob_gap=0.1, gap_patience=2))
    for gap in (0.3, 0.05, 0.3):
        alarm.observe(gap)
    with pytest.raises(TrainingError, match=r"lie 0\.200 nats a token from the trainer's, above .* for 2 steps"):
        alarm.observe(0.2)


def test_no_gap_is_no_good_gap():
    alarm = GapAlarm(CompletionsSettings(gap_patience=1))
    with pytest.raises(TrainingError, match="nan nats"):
        alarm.observe(float("nan"))
