"""The artifact stores: whole or not at all, whatever happens; the same tests for a local and an fsspec store."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import sys
import time

import fsspec
import pytest

from adapters.artifact_files import AdapterFile, check_digest, read_marker
from adapters.artifacts import ArtifactStore
from adapters.errors import ArtifactError, ConfigError
from adapters.local_store import LocalStore
from adapters.remote_store import RemoteStore
from adapters.settings import ArtifactSettings

SPAWN = multiprocessing.get_context("spawn")
CONTENT = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000}
DIGEST = hashlib.sha256(b"these").hexdigest()
NUMBERS = itertools.count()


def files(content=None):
    return {name: AdapterFile.of(data) for name, data in (content or CONTENT).items()}


def stored(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "complete.json"}


@pytest.fixture(params=["local", "remote"])
def store(request, data_dir):
    """A store of each kind; the remote one is fsspec's file system in memory, at a place of its own."""
    url = "file" if request.param == "local" else f"memory://bucket-{next(NUMBERS)}/adapters"
    return ArtifactStore(ArtifactSettings(url=url), data_dir)


def test_what_is_published_can_be_read(store):
    assert not store.exists(DIGEST)
    assert store.publish(DIGEST, files()) == DIGEST
    assert store.exists(DIGEST)
    assert store.list() == [DIGEST]
    store.verify(DIGEST)
    assert stored(store.materialise(DIGEST)) == CONTENT
    assert store.local_path(DIGEST) == str(store.materialise(DIGEST))


def test_publishing_again_changes_nothing(store):
    store.publish(DIGEST, files())
    before = store.materialise(DIGEST).stat().st_ino
    store.publish(DIGEST, files())
    assert store.materialise(DIGEST).stat().st_ino == before


def test_deleted_is_gone(store):
    store.publish(DIGEST, files())
    store.materialise(DIGEST)
    assert store.delete(DIGEST) is True
    assert store.delete(DIGEST) is False
    assert not store.exists(DIGEST)
    assert store.list() == []
    for read in (store.verify, store.materialise, store.local_path):
        with pytest.raises(ArtifactError):
            read(DIGEST)
    store.publish(DIGEST, files())
    store.verify(DIGEST)


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "A" * 64, "0" * 63, "0" * 64 + "/x", "0" * 64 + "\n"])
def test_only_digests_become_paths(store, digest):
    for use in (store.exists, store.verify, store.delete, store.local_path, store.materialise, check_digest):
        with pytest.raises(ArtifactError, match="is not a digest"):
            use(digest)
    with pytest.raises(ArtifactError, match="is not a digest"):
        store.publish(digest, files())


def test_a_file_that_changes_while_it_is_copied_is_refused(store, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    announced = AdapterFile.of(path)
    path.write_bytes(b"after!")
    with pytest.raises(ArtifactError, match="changed while it was read"):
        store.publish(DIGEST, {"w": announced})
    assert not store.exists(DIGEST)


def test_a_source_that_fails_leaves_nothing(store):
    def broken():
        raise OSError(5, "Input/output error")

    with pytest.raises(ArtifactError, match="Input/output error"):
        store.publish(DIGEST, {**files(), "z": AdapterFile(broken, 1, "0" * 64)})
    assert not store.exists(DIGEST)
    store.publish(DIGEST, files())
    store.verify(DIGEST)


def test_engines_may_see_the_store_elsewhere(data_dir):
    store = ArtifactStore(ArtifactSettings(engine_path="/mnt/adapters/"), data_dir)
    assert store.local_path(DIGEST) == f"/mnt/adapters/{DIGEST}"


@pytest.mark.parametrize("url", ["file://{}/x", "{}/x"])
def test_local_urls(url, tmp_path, data_dir):
    store = ArtifactStore(ArtifactSettings(url=url.format(tmp_path)), data_dir)
    store.publish(DIGEST, files())
    assert store.local_path(DIGEST) == str(tmp_path / "x" / DIGEST)


@pytest.mark.parametrize("url", ["", "artifacts", "./x", "file:x", "file://host/x", "nosuch://bucket/x"])
def test_wrong_urls(url, data_dir):
    with pytest.raises(ConfigError, match=r"artifacts\.url"):
        ArtifactStore(ArtifactSettings(url=url), data_dir)


def test_a_file_system_whose_package_is_missing_names_it(data_dir, monkeypatch):
    known = sys.modules["fsspec.registry"].known_implementations
    monkeypatch.setitem(known, "us3", {"class": "missing.S3", "err": "Install us3fs"})
    with pytest.raises(ConfigError, match="Install us3fs"):
        ArtifactStore(ArtifactSettings(url="us3://bucket/x"), data_dir)


# The local store.


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
    gate.wait(60)
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
        process.join(60)
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


# Stores without atomic renames.


def test_without_its_marker_a_remote_artifact_does_not_exist(data_dir):
    url = f"memory://bucket-{next(NUMBERS)}"
    remote = RemoteStore(url)
    remote.publish(DIGEST, files())
    fsspec.filesystem("memory").rm(f"{url.removeprefix('memory:/')}/{DIGEST}/complete.json")
    assert not remote.exists(DIGEST)
    remote.publish(DIGEST, files())
    assert remote.exists(DIGEST)


def test_the_marker_is_written_last(monkeypatch):
    remote = RemoteStore(f"memory://bucket-{next(NUMBERS)}")
    opened, original = [], remote._fs.open

    def watched(self, path, *arguments, **options):
        opened.append(path.rsplit("/")[-1])
        return original(path, *arguments, **options)

    monkeypatch.setattr(type(remote._fs), "open", watched)
    remote.publish(DIGEST, files())
    assert opened[-1] == "complete.json"
    assert len(opened) == 3


def test_damage_on_the_way_is_found(data_dir):
    url = f"memory://bucket-{next(NUMBERS)}"
    store = ArtifactStore(ArtifactSettings(url=url), data_dir)
    store.publish(DIGEST, files())
    path = f"{url.removeprefix('memory:/')}/{DIGEST}/adapter_model.safetensors"
    fsspec.filesystem("memory").pipe(path, b"X" * len(CONTENT["adapter_model.safetensors"]))
    with pytest.raises(ArtifactError, match="damaged"):
        store.verify(DIGEST)
    with pytest.raises(ArtifactError, match="damaged"):
        store.materialise(DIGEST)
    assert list((data_dir / "cache" / "artifacts").glob("[0-9a-f]*")) == []


def test_errors_of_the_client_library_become_one_line(monkeypatch):
    remote = RemoteStore(f"memory://bucket-{next(NUMBERS)}")

    def refuse(*_, **__):
        raise RuntimeError("AccessDenied:\n who are you?")

    monkeypatch.setattr(type(remote._fs), "cat_file", refuse)
    with pytest.raises(ArtifactError, match=r"memory://bucket-\d+: AccessDenied: who are you\?$"):
        remote.exists(DIGEST)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": 3}', b'{"files": {"a": {}}}'])
def test_a_damaged_marker_is_a_value_error(content):
    with pytest.raises(ValueError):
        read_marker(content, lambda name: None)
