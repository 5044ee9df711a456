"""Stores without atomic renames: the marker is written last, and everything is checked on the way."""

from __future__ import annotations

import hashlib
import itertools

import fsspec
import pytest

from adapters.artifact_files import AdapterFile, read_marker
from adapters.artifacts import ArtifactStore
from adapters.errors import ArtifactError, ConfigError
from adapters.remote_store import RemoteStore
from adapters.settings import ArtifactSettings

CONTENT = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000}
DIGEST = hashlib.sha256(b"these").hexdigest()
NUMBERS = itertools.count()


def files(content=None):
    return {name: AdapterFile.of(data) for name, data in (content or CONTENT).items()}


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


def test_credentials_in_a_url_are_not_repeated(data_dir):
    with pytest.raises(ConfigError) as caught:
        ArtifactStore(ArtifactSettings(url="nosuch://me:hidden@bucket/x"), data_dir)
    assert "hidden" not in str(caught.value)
    assert RemoteStore("memory://me:hidden@bucket/x").root == "memory://bucket/x"
