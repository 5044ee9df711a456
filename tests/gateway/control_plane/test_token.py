from __future__ import annotations

import stat
import threading

import pytest

from adapters.errors import ConfigError
from gateway.config import ControlSettings, Settings
from gateway.control_plane.token import operator_token, same_token


def test_it_is_made_once_and_private(data_dir):
    settings = Settings(data_dir=data_dir)
    token = operator_token(settings, create=True)
    assert len(token) >= 40 and operator_token(settings, create=True) == operator_token(settings) == token
    assert stat.S_IMODE((data_dir / "operator.token").stat().st_mode) == 0o600
    assert [path.name for path in data_dir.iterdir()] == ["operator.token"]


def test_the_setting_wins_and_nothing_is_written(data_dir):
    settings = Settings(data_dir=data_dir, control=ControlSettings(operator_token="mine"))
    assert operator_token(settings, create=True) == "mine" and not data_dir.exists()


def test_commands_do_not_make_one(data_dir):
    with pytest.raises(ConfigError, match="start the controller, which makes it"):
        operator_token(Settings(data_dir=data_dir))


def test_a_broken_one_is_named(data_dir):
    data_dir.mkdir()
    (data_dir / "operator.token").write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        operator_token(Settings(data_dir=data_dir), create=True)
    (data_dir / "operator.token").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        operator_token(Settings(data_dir=data_dir))


def test_several_at_once_agree(data_dir):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(operator_token(Settings(data_dir=data_dir), create=True)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


@pytest.mark.parametrize(("given", "same"), [("abc", True), ("ab", False), ("abcd", False), ("", False), ("äbc", False)])
def test_comparison(given, same):
    assert same_token(given, "abc") is same
