from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from gateway.control_plane.children import Child, ChildFailed
from gateway.engines.backoff import Backoff
from tests.gateway.control_plane.test_up import alive
from tests.support.waiting import PATIENCE


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
async def child(tmp_path: Path, said):
    made: list[tuple[Child, asyncio.Task]] = []

    def start(code: str, sign: str = "") -> tuple[Child, asyncio.Task]:
        def show(name: str, line: str) -> None:
            said.append(line)

        one = Child("c", [sys.executable, "-c", code], tmp_path / "c.log", show, sign, backoff=Backoff(0.01, 0.05))
        made.append((one, asyncio.create_task(one.run())))
        return made[-1]

    yield start
    for one, task in made:
        await one.stop(1.0)
        await asyncio.gather(task, return_exceptions=True)


async def until(condition, patience: float = 3 * PATIENCE) -> None:  # several Pythons start, one after the other
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("status", [1, 2])
async def test_one_that_cannot_start_says_why(child, status):
    _, task = child(f"import sys; print('noise'); print('error: port 5 is taken'); sys.exit({status})")
    with pytest.raises(ChildFailed, match=r"^port 5 is taken$"):
        await task


async def test_without_a_line_the_log_is_named(child, tmp_path):
    _, task = child("import sys; sys.exit(1)")
    with pytest.raises(ChildFailed, match=rf"status 1 \(log: {tmp_path}"):
        await task


async def test_once_settled_it_is_started_again_whatever_happens(child, said):
    one, task = child("import sys, time; time.sleep(0.2); sys.exit(1)")
    one.settled = True
    await until(lambda: sum("starting again" in line for line in said) >= 3)
    assert not task.done()


async def test_a_crash_is_started_again_even_before_it_settled(child, said):
    _, task = child("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    await until(lambda: sum("status -9" in line for line in said) >= 2)
    assert not task.done()


async def test_people_see_warnings_and_plain_lines_the_log_has_all(child, said, tmp_path):
    lines = [
        '{"level": "info", "message": "listening on x"}', '{"level": "warning", "message": "careful"}',
        '{"level": "error", "message": "bad"}', "plain", '{"not": "a log line"}', "{broken", "",
    ]  # fmt: skip
    one, _ = child(f"import time; print({chr(10).join(lines)!r}, flush=True); time.sleep(60)", "listening on ")
    await until(lambda: "{broken" in said)
    assert [line for line in said if line] == ["warning: careful", "error: bad", "plain", '{"not": "a log line"}', "{broken"]
    assert one.spoke
    assert (tmp_path / "c.log").read_text().splitlines()[:6] == lines[:6]


async def test_endless_lines_and_bytes_do_not_stop_it(child, said):
    child(r"import sys, time; o = sys.stdout.buffer; o.write(b'x' * 5000000 + b'\n\xff\xfe ok\n'); o.flush(); time.sleep(60)")
    await until(lambda: any(line.endswith(" ok") for line in said))


async def test_it_stops_and_is_killed_when_it_does_not(child, said):
    one, task = child("import time; time.sleep(60)")
    await until(lambda: one._process is not None)
    await one.stop(10.0)
    await task
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    two, task = child(stubborn)
    await until(lambda: "up" in said)
    await two.stop(0.3)
    await task
    assert two._process.returncode == -signal.SIGKILL and any("is killed" in line for line in said)


async def test_it_does_not_outlive_its_supervisor(tmp_path):
    code = (
        "import asyncio, sys; from pathlib import Path; from gateway.control_plane.children import Child\n"
        "inner = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "c = Child('c', [sys.executable, '-c', inner], Path(sys.argv[1]), lambda n, line: print(line, flush=True))\n"
        "asyncio.run(c.run())"
    )
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    pid = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    await until(lambda: not alive([pid]))
