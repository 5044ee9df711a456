from __future__ import annotations

from pathlib import Path

from gateway.engines import logfile
from gateway.engines.logfile import last_line, open_log, telling_line

# From real runs of vLLM 0.32.
LOG = """\
INFO 11-23 13:05:58 [launcher.py:195] Route: /adapters
(EngineCore pid=12) ERROR 11-23 13:05:59 [core.py:900] EngineCore failed to start.
(EngineCore pid=12) ERROR 11-23 13:05:59 [core.py:900] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-23 13:05:59 [core.py:900]   File "/x.py", line 1, in f
(EngineCore pid=12) ERROR 11-23 13:05:59 [core.py:900] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB
(APIServer pid=10) Traceback (most recent call last):
(APIServer pid=10) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
\x1b[32mbye\x1b[0m

"""


def test_the_line_with_the_cause_is_found(tmp_path: Path):
    path = tmp_path / "e.log"
    path.write_text(LOG)
    assert telling_line(path) == "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB"
    assert last_line(path) == "bye"


def test_wrong_options_are_found(tmp_path: Path):
    path = tmp_path / "e.log"
    path.write_text("usage: api_server.py [-h]\napi_server.py: error: unrecognized arguments: --nonsense\n")
    assert telling_line(path) == "api_server.py: error: unrecognized arguments: --nonsense"


def test_wrong_settings_are_found(tmp_path: Path):
    path = tmp_path / "e.log"
    path.write_text(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, max_model_len (100000) is too long. [type=value_error, input_value=ArgsKwargs(), x]\n"
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error\n"
    )
    assert telling_line(path) == "Value error, max_model_len (100000) is too long."


def test_earlier_runs_do_not_count(tmp_path: Path):
    path = tmp_path / "logs" / "e.log"
    assert open_log(path) == 0
    path.write_text(LOG)
    start = open_log(path)
    with path.open("a") as file:
        file.write("starting\n")
    assert telling_line(path, start) == last_line(path, start) == "starting"
    assert last_line(path, path.stat().st_size) == ""
    assert last_line(tmp_path / "nothing.log") == ""


def test_large_logs_are_rotated_and_some_are_kept(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(logfile, "ROTATE_AT", 10)
    path = tmp_path / "e.log"
    for run in range(6):
        path.write_text(f"run {run} ........")
        assert open_log(path) == 0
        assert not path.exists()
    kept = {file.name: file.read_text()[:5] for file in tmp_path.iterdir()}
    assert kept == {"e.log.1": "run 5", "e.log.2": "run 4", "e.log.3": "run 3"}


def test_only_the_end_of_a_huge_log_is_read(tmp_path: Path):
    path = tmp_path / "e.log"
    path.write_bytes(b"\xff\xfe" * 10_000_000 + b"\nValueError: no\n")
    assert telling_line(path) == "ValueError: no"
