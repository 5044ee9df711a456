from __future__ import annotations

import stat
from pathlib import Path

import pytest

from adapters.errors import ConfigError
from gateway.engines.local import (
    LocalEngine,
    read_state,
    request_restart,
    supervise,
    take_restart_request,
    write_state,
)
from gateway.engines.sessions import SessionRecord


def test_state_is_read_as_written(data_dir: Path):
    state = LocalEngine("engine-0", "unix:/s", "ready", 7, 9, "1.5", 2.0, "", SessionRecord(8, "99", "boot"))
    assert read_state(data_dir, 0) is None
    write_state(data_dir, 0, state)
    assert read_state(data_dir, 0) == state
    assert stat.S_IMODE((data_dir / "engines").stat().st_mode) == 0o700
    assert [path.name for path in (data_dir / "engines").iterdir()] == ["0.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 1}', '{"name": "x", "url": "", "state": "", "z": 1}'])
def test_a_broken_state_is_no_state(data_dir: Path, content):
    (data_dir / "engines").mkdir(parents=True)
    (data_dir / "engines" / "0.json").write_text(content)
    assert read_state(data_dir, 0) is None


def test_a_restart_is_for_one_boot_and_happens_once(data_dir: Path):
    request_restart(data_dir, 0, "1.5", "NaN")
    assert take_restart_request(data_dir, 0, "1.5") == "NaN"
    assert take_restart_request(data_dir, 0, "1.5") == ""
    request_restart(data_dir, 0, "1.5", "NaN")
    assert take_restart_request(data_dir, 0, "1.6") == ""  # it restarted for another reason meanwhile
    assert take_restart_request(data_dir, 0, "1.5") == ""


def test_a_replica_has_one_supervisor(data_dir: Path):
    with supervise(data_dir, 0):
        write_state(data_dir, 0, LocalEngine("engine-0", "", "ready", 4321))
        refused = pytest.raises(ConfigError, match=r"engine-0 is supervised already \(process 4321\)")
        with refused, supervise(data_dir, 0):
            pass
        with supervise(data_dir, 1):
            pass
    with supervise(data_dir, 0):
        pass


def test_a_data_dir_that_cannot_be_written(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="cannot be created"):
        write_state(blocked, 0, LocalEngine("engine-0", "", "ready", 1))
