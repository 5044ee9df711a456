"""The benchmark counts what really happened, and says what it could not measure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from deploy.bench import cpu, measure, peers, processes, report, upstream
from deploy.bench.load import Measured, Work, percentile, run
from tests.support.tree import ROOT
from tests.support.waiting import soon

MEASURED = ("direct", "nginx", "understudy", "audit", "fastapi")  # what needs no installing


@pytest.fixture
async def stand_in():
    """The stand-in upstream in this process; yields its URL."""
    loop = asyncio.get_running_loop()
    adapters: dict[str, str] = {}
    server = await loop.create_server(lambda: upstream.Upstream(adapters), "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def ask(url, method, path, body=None):
    import httpx

    async with httpx.AsyncClient(base_url=url) as client:
        return await client.request(method, path, json=body, headers={"x-request-id": "abc"})


async def test_stand_in_answers_like_vllm(stand_in):
    answer = (await ask(stand_in, "POST", "/v1/chat/completions", {"model": "m", "messages": []})).json()
    assert (answer["id"], answer["model"], answer["usage"]["completion_tokens"]) == ("chatcmpl-abc", "m", 60)
    body = {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    text = (await ask(stand_in, "POST", "/v1/chat/completions", body)).text
    *events, done = [line.removeprefix("data: ") for line in text.strip().split("\n\n")]
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert len([c for c in chunks if c["choices"] and c["choices"][0]["delta"]["content"]]) == upstream.CHUNKS
    assert chunks[-1]["usage"]["completion_tokens"] == upstream.CHUNKS and chunks[-1]["choices"] == []


async def test_stand_in_keeps_adapters(stand_in):
    loaded = await ask(stand_in, "POST", "/v1/load_lora_adapter", {"lora_name": "a@1", "lora_path": "/a"})
    names = {m["id"]: m["root"] for m in (await ask(stand_in, "GET", "/v1/models")).json()["data"]}
    assert loaded.status_code == 200 and names == {"base": "base", "a@1": "/a"}
    await ask(stand_in, "POST", "/v1/unload_lora_adapter", {"lora_name": "a@1"})
    assert len((await ask(stand_in, "GET", "/v1/models")).json()["data"]) == 1
    assert (await ask(stand_in, "GET", "/tokenize")).status_code == 404


async def seen_by(work: Work, enough: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """What was measured in a second; in another one, where a busy machine slept through it."""
    for _ in range(20):
        if enough(seen := await run(work)):
            break
    return seen


async def test_load_counts_requests_and_events(stand_in):
    work = Work(stand_in, connections=4, seconds=1.0, warm_up=0.1, pid=os.getpid())
    plain = await seen_by(work, lambda seen: seen["requests"] > 10)
    assert plain["errors"] == {} and plain["requests"] > 10 and plain["events"] == 0
    assert 0 < plain["latency_p50"] <= plain["latency_p99"] < 5 and plain["cpu_per_request"] > 0
    work = Work(stand_in, connections=4, seconds=1.0, warm_up=0.1, stream=True)
    stream = await seen_by(work, lambda seen: seen["events"] > upstream.CHUNKS)
    assert stream["errors"] == {} and stream["events"] > upstream.CHUNKS
    assert stream["first_p50"] > upstream.GAP / 2 and stream["gap_p50"] > 0


async def test_load_reports_refusals_and_cut_answers():
    refused = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{..."
    for answer, stream, expected in ((refused, False, "status 503: busy"), (cut, False, "incomplete answer")):
        async def serve(reader, writer, answer=answer):
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await reader.readuntil(b"}"):
                    writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        work = Work(url, connections=1, seconds=1.0, warm_up=0.0, stream=stream)
        seen = await seen_by(work, lambda seen: seen["errors"])
        server.close()
        assert seen["requests"] == 0 and expected in seen["errors"]


def test_cpu_time_covers_grandchildren_that_live():
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True); time.sleep(60)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    try:
        parent.stdout.readline()
        assert len(cpu.tree(parent.pid)) == 2
        assert 0.3 <= cpu.seconds(parent.pid) < 10
    finally:
        processes.stop(parent)
        parent.stdout.close()
    assert cpu.seconds(parent.pid) == 0.0


def test_stop_ends_children_in_sessions_of_their_own(tmp_path):
    start = "subprocess.Popen(['sleep', '300'], start_new_session=True)"
    script = f"import subprocess, time; print({start}.pid, flush=True); time.sleep(300)"
    log = tmp_path / "log"
    with processes.started([sys.executable, "-c", script], log, None):
        while not log.read_text():
            time.sleep(0.05)
    child = int(log.read_text())
    ask = ["ps", "-o", "stat=", "-p", str(child)]
    # killed; on a busy machine it takes a moment to be gone
    soon(lambda: subprocess.run(ask, check=False, capture_output=True, text=True).stdout.strip() in ("", "Z", "Zs"))


def test_a_peer_that_cannot_start_gives_its_last_words(tmp_path):
    log = tmp_path / "log"
    with (
        processes.started([sys.executable, "-c", "print('port taken'); raise SystemExit(7)"], log, None) as process,
        pytest.raises(processes.CouldNotStart, match="it ended with status 7; its last words: port taken"),
    ):
        processes.wait_ready(process, log, "http://127.0.0.1:9", "/")
    with (
        pytest.raises(processes.CouldNotStart, match="No such file"),
        processes.started(["/no/such"], log, None) as process,
    ):
        processes.wait_ready(process, log, "http://127.0.0.1:9", "/")


def rounds(*costs: float, share: float = 0.5) -> list[measure.Round]:
    """Rounds that differ in CPU a request only."""
    phase = {"cpu_per_event": 1e-5, "latency_p50": 1e-3, "latency_p99": 2e-3, "first_p50": 6e-3, "per_second": 1000.0,
             "cpu_share": share, "others_share": 0.01, "errors": {}}  # fmt: skip
    return [{name: phase | {"cpu_per_request": cost} for name in ("one", "many", "stream")} for cost in costs]


def test_ratios_are_paired_and_carry_their_interval():
    center, low, high = report.ratio(rounds(20.0, 22.0, 18.0), rounds(10.0, 11.0, 9.0), "many", "cpu_per_request")
    assert center == pytest.approx(2.0) and low == pytest.approx(2.0) and high == pytest.approx(2.0)
    center, low, high = report.ratio(rounds(20.0, 30.0), rounds(10.0, 10.0), "many", "cpu_per_request")
    half = 12.706 * (math.log(1.5) / math.sqrt(2)) / math.sqrt(2)  # t(0.975, 1 degree) x standard error
    assert (center, high / center) == (pytest.approx(math.sqrt(6)), pytest.approx(math.exp(half), rel=1e-3))
    assert report.ratio(rounds(1.0), rounds(1.0), "many", "cpu_per_request") is None
    assert report.ratio(rounds(1.0, 1.0), [], "many", "cpu_per_request") is None


def test_the_report_is_honest():
    seen = measure.Results(
        {"direct": rounds(1e-5, 1e-5), "nginx": rounds(1e-5, 1e-5), "fastapi": rounds(1e-3, 1e-3, share=0.97)},
        {"understudy": "it ended with status 1"},
    )
    seen.rounds["nginx"][0]["many"]["errors"] = {"status 502": 3}
    summaries = report.summary(seen)
    text = report.table(summaries)
    notes = "\n".join(report.remarks(seen, summaries))
    assert "nginx, plain proxy (errors!)" in text and "100.00 [100.00, 100.00]" in text
    assert "Understudy, everything on is missing: it ended with status 1" in notes
    assert "nginx, plain proxy: 3 failed requests (status 502)" in notes
    assert "FastAPI + httpx could not keep up" in notes
    assert "quiet: other work took 1.0%" in notes
    seen.rounds["nginx"] = [{p: v | {"others_share": 0.9} for p, v in r.items()} for r in seen.rounds["nginx"]]
    seen.rounds["fastapi"] = []
    assert any("NOISY" in note for note in report.remarks(seen, report.summary(seen)))


def test_percentiles():
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0 and percentile([1.0], 0.99) == 1.0
    measured = Measured()
    measured.error("x")
    assert measured.errors == {"x": 1}


@pytest.mark.slow
@pytest.mark.needs("nginx")
@pytest.mark.long
def test_a_short_run_from_the_command_line(tmp_path):
    out = tmp_path / "deep" / "bench.json"
    command = [sys.executable, "-m", "deploy.bench", "--rounds", "2", "--seconds", "0.8", "--connections", "4"]
    command += ["--out", str(out), "--no-streams", "--peers", ",".join(MEASURED)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["could_not_start"] == {} and set(found["rounds"]) == set(MEASURED)
    for name in MEASURED[1:]:
        assert found["summary"][name]["errors"] == {}
        assert found["summary"][name]["cpu_per_request"] > 0 and found["summary"][name]["cpu_per_chunk"] > 0
    assert "| nginx, plain proxy " in done.stdout
    assert "Understudy, everything on" in out.with_suffix(".svg").read_text()


def test_wrong_usage_is_said():
    command = [sys.executable, "-m", "deploy.bench", "--peers", "ngnix"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no peer 'ngnix'; there are direct, nginx" in done.stderr
    assert next(iter(peers.PEERS)) == "direct"
