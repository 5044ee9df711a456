"""API keys and shared secrets."""

from __future__ import annotations

import hashlib
import re
import threading

import pytest

from adapters.errors import ConfigError, Conflict, NotFound
from adapters.fleet_store import FleetStore
from adapters.keys import create_key, hash_secret, list_keys, load_keys, revoke_key, server_secret


def test_a_key_is_found_by_the_hash_of_its_secret(database):
    key, secret = create_key(database, "team-a", ["inference"], ["b", "a"], rpm=60, tpm=1000)
    assert re.fullmatch(r"us-[A-Za-z0-9_-]{43}", secret)
    with database.read() as connection:
        loaded = load_keys(connection)
    assert loaded == {hashlib.sha256(secret.encode()).digest(): key}
    assert (key.owner, key.scopes, key.routes) == ("team-a", {"inference"}, {"a", "b"})
    assert (key.requests_per_minute, key.tokens_per_minute) == (60, 1000)
    assert hash_secret(secret) == key.secret_hash


def test_the_secret_is_nowhere_in_the_database(database, data_dir):
    _, secret = create_key(database, "a", ["operator"])
    if database.dialect == "sqlite":
        content = b"".join(path.read_bytes() for path in data_dir.iterdir())
        assert secret.encode() not in content
        assert hash_secret(secret) in content


def test_revoked_keys_are_listed_and_not_loaded(database):
    key, _ = create_key(database, "a", ["inference"])
    other, _ = create_key(database, "b", ["operator"])
    assert revoke_key(database, key.id).revoked_at is not None
    with database.read() as connection:
        assert [k.id for k in load_keys(connection).values()] == [other.id]
    assert [(k.id, k.revoked_at is None) for k in list_keys(database)] == [(key.id, False), (other.id, True)]
    with pytest.raises(Conflict, match="revoked already"):
        revoke_key(database, key.id)
    with pytest.raises(NotFound, match="see `understudy key list`"):
        revoke_key(database, "key-nobody")


def test_every_change_is_announced(database):
    fleet = FleetStore(database)
    before = fleet.poll()[1]
    key, _ = create_key(database, "a", ["inference"])
    created = fleet.poll()[1]
    revoke_key(database, key.id)
    assert before < created < fleet.poll()[1]


@pytest.mark.parametrize(
    ("owner", "scopes", "limits", "message"),
    [
        ("", ["inference"], {}, "needs an owner"), ("x" * 201, ["inference"], {}, "needs an owner"),
        ("a\x1b[31m", ["inference"], {}, "needs an owner"), ("a\0", ["inference"], {}, "needs an owner"),
        ("a", [], {}, "scopes are inference and operator"), ("a", ["admin"], {}, "got admin"),
        ("a", ["inference"], {"rpm": -1}, "between 0"), ("a", ["inference"], {"tpm": 2**31}, "between 0"),
        ("a", ["inference"], {"routes": ["A"]}, "is not a route name"),
    ],
)  # fmt: skip
def test_wrong_keys(database, owner, scopes, limits, message):
    with pytest.raises(ConfigError, match=message):
        create_key(database, owner, scopes, **limits)
    assert list_keys(database) == []


def test_any_text_can_be_hashed():
    assert len({hash_secret(text) for text in ("", "ä", "\udc80", "\0")}) == 4


def test_the_server_secret_is_made_once(database):
    found = []
    threads = [threading.Thread(target=lambda: found.append(server_secret(database))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    assert server_secret(database, "another") != found[0]
