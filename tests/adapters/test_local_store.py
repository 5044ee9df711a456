"""The local store: damage, full disks, leftovers, several writers."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time

import pytest

from adapters.artifact_files import AdapterFile
from adapters.errors import ArtifactError
from adapters.local_store import LocalStore

SPAWN = multiprocessing.get_context("spawn")
CONTENT = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000}
DIGEST = hashlib.sha256(b"these").hexdigest()


def files(content=None):
    return {name: AdapterFile.of(data) for name, data in (content or CONTENT).items()}


def stored(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "complete.json"}


@pytest.fixture
def local(data_dir):
    return LocalStore(data_dir / "artifacts")


def damage_bytes(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"X")


DAMAGES = {
    "bytes": damage_bytes,
    "size": lambda folder: (folder / "adapter_config.json").write_bytes(b"{"),
    "file": lambda folder: (folder / "adapter_config.json").unlink(),
    "marker": lambda folder: (folder / "complete.json").unlink(),
    "marker's text": lambda folder: (folder / "complete.json").write_text("[]"),
    "marker's paths": lambda folder: (folder / "complete.json").write_text('{"files": {"../x": {"size": 1}}}'),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_pushing_again_mends_it(local, name):
    local.publish(DIGEST, files())
    DAMAGES[name](local.path(DIGEST))
    with pytest.raises(ArtifactError, match="push it again"):
        local.verify(DIGEST)
    local.publish(DIGEST, files())
    local.verify(DIGEST)
    assert stored(local.path(DIGEST)) == CONTENT
    assert list((local.root / ".incoming").iterdir()) == []


def test_what_was_deleted_or_interrupted_is_swept_when_it_is_old(local):
    local.publish(DIGEST, files())
    for name, age in (("old", 7200), ("young", 10)):
        part = local.root / ".incoming" / name
        part.mkdir()
        (part / "w").write_bytes(b"x")
        for path in (part / "w", part):
            os.utime(path, (time.time() - age,) * 2)
    assert local.sweep(3600) == 1
    assert [path.name for path in (local.root / ".incoming").iterdir()] == ["young"]
    assert LocalStore(local.root / "nowhere").sweep(0) == 0


def test_a_part_that_is_still_written_to_is_not_swept(local):
    part = local.root / ".incoming" / "big"
    part.mkdir(parents=True)
    os.utime(part, (0, 0))
    (part / "w").write_bytes(b"x")
    os.utime(part, (0, 0))
    assert local.sweep(3600) == 0


def _publish_at_once(root, gate, failures):
    store = LocalStore(root)
    gate.wait(150)
    try:
        for _ in range(10):
            store.publish(DIGEST, files())
            store.verify(DIGEST)
    except Exception as error:
        failures.put(repr(error))


def test_several_processes_publish_the_same_at_once(local):
    gate, failures = SPAWN.Barrier(4), SPAWN.Queue()
    processes = [SPAWN.Process(target=_publish_at_once, args=(local.root, gate, failures)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
    assert [process.exitcode for process in processes] == [0] * 4
    assert failures.empty(), failures.get()
    assert local.list() == [DIGEST]
    assert list((local.root / ".incoming").iterdir()) == []


def test_a_full_disk_says_so_and_leaves_nothing(small_disk):
    local = LocalStore(small_disk / "artifacts")
    local.publish(DIGEST, files())
    big = hashlib.sha256(b"big").hexdigest()
    with pytest.raises(ArtifactError, match="the disk is full: free some space") as caught:
        local.publish(big, files({"w": b"x" * 3_000_000}))
    assert "\n" not in str(caught.value)
    assert not local.exists(big)
    assert list((local.root / ".incoming").iterdir()) == []
    local.verify(DIGEST)


def test_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be stored in .*Not a directory"):
        LocalStore(tmp_path / "file" / "x").publish(DIGEST, files())
