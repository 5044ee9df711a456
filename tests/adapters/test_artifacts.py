"""The artifact stores: whole or not at all, whatever happens; the same tests for a local and an fsspec store."""

from __future__ import annotations

import hashlib
import itertools
import sys

import pytest

from adapters.artifact_files import AdapterFile, check_digest
from adapters.artifacts import ArtifactStore
from adapters.errors import ArtifactError, ConfigError
from adapters.settings import ArtifactSettings

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
