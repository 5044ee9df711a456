"""Pushes that are killed, fail half-way, or meet each other: nothing half registered, nothing lost."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import subprocess
import sys

import pytest

from adapters.artifacts import ArtifactStore
from adapters.base import read_base
from adapters.database import open_database
from adapters.errors import ArtifactError, DatabaseError
from adapters.registry import Registry
from adapters.settings import ArtifactSettings, DatabaseSettings
from tests.support import peft, tree

SPAWN = multiprocessing.get_context("spawn")


def test_a_database_that_fails_leaves_files_and_the_next_push_registers_them(
    registry, database, artifacts, push, monkeypatch
):
    def fail(*_):
        raise DatabaseError("gone")

    with monkeypatch.context() as broken:
        broken.setattr("adapters.registry.record", fail)
        with pytest.raises(DatabaseError, match="gone"):
            push()
    assert registry.list() == []
    version = push()
    assert registry.list() == [version]


def test_a_full_disk_registers_nothing(small_disk, base, tmp_path):
    database = open_database(DatabaseSettings(), tmp_path / "data")
    registry = Registry(database, ArtifactStore(ArtifactSettings(url=str(small_disk / "store")), tmp_path))
    (small_disk / "ballast").write_bytes(b"x" * 2_090_000)
    folder = peft.write_adapter(tmp_path / "a", base)
    with pytest.raises(ArtifactError, match="the disk is full"):
        registry.push(folder, "support", base=base, max_rank=16)
    assert registry.list() == []
    (small_disk / "ballast").unlink()
    registry.push(folder, "support", base=base, max_rank=16)
    assert len(registry.list()) == 1
    database.close()


def _push_at_once(url, data_dir, folder, base_folder, gate, results):
    database = open_database(DatabaseSettings(url=url), data_dir)
    registry = Registry(database, ArtifactStore(ArtifactSettings(), data_dir))
    base = read_base(base_folder)
    gate.wait(150)
    results.put(registry.push(folder, "support", base=base, max_rank=16).name)
    database.close()


def test_several_processes_push_the_same_bytes(registry, artifacts, database_settings, data_dir, adapter, base):
    gate, results = SPAWN.Barrier(4), SPAWN.Queue()
    arguments = (database_settings.url, data_dir, adapter, base.path, gate, results)
    processes = [SPAWN.Process(target=_push_at_once, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    names = {results.get(timeout=150) for _ in processes}
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    [version] = registry.list()
    assert names == {version.name}
    assert len(registry.events(version.name)) == 1
    artifacts.verify(version.digest)


@pytest.fixture
def dying_push(database_settings, data_dir, base):
    """Push a folder in a process that dies: dying_push(folder, step=…, delay=…) → its exit code."""
    command = [sys.executable, "-m", "tests.support.dying_push"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tree.ROOT, text=True, **pipes) as process:

        def push(folder, step=0, delay=0.0):
            order = [database_settings.url, str(data_dir), str(folder), str(base.path), step, delay]
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield push
        process.stdin.close()


def check_after_kill(registry, artifacts):
    """Every registered version is whole, and every file that is visible in the store is too."""
    for version in registry.list():
        artifacts.verify(version.digest)
        assert registry.events(version.name)
    for digest in artifacts.list():
        artifacts.verify(digest)


def test_a_push_killed_before_every_step(registry, artifacts, dying_push, data_dir, base, tmp_path):
    for step in range(1, 200):
        folder = peft.write_adapter(tmp_path / f"a{step}", base, seed=step)
        code = dying_push(folder, step=step)
        check_after_kill(registry, artifacts)
        before = {version.name for version in registry.list()}
        again = registry.push(folder, "support", base=base, max_rank=16)
        artifacts.verify(again.digest)
        assert {version.name for version in registry.list()} == before | {again.name}
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert 15 < step < 199
    artifacts.sweep(0)
    assert list((data_dir / "artifacts" / ".incoming").iterdir()) == []
    assert len(artifacts.list()) == len(registry.list())


def test_a_push_killed_at_random_times(registry, artifacts, dying_push, base, tmp_path):
    """Also inside system calls."""
    delays, codes = random.Random(7), []
    for attempt in range(30):
        folder = peft.write_adapter(tmp_path / f"a{attempt}", base, lora_alpha=attempt + 1)
        codes.append(dying_push(folder, delay=delays.uniform(0.001, 0.03)))
        check_after_kill(registry, artifacts)
        registry.push(folder, "support", base=base, max_rank=16)
    assert len(registry.list()) == 30
    check_after_kill(registry, artifacts)
    assert -signal.SIGALRM in codes
