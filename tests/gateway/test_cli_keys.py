"""`understudy key …` and `understudy db …`."""

from __future__ import annotations

import json

import pytest

from adapters.database import head
from adapters.keys import hash_secret, load_keys
from tests.support.commands import failed, good


def test_keys(cli, cli_database):
    limits = ["--owner", "team", "--routes", "declared", "--rpm", "9"]
    secret = good(cli("key", "create", "--scope", "inference,operator", *limits)).strip()
    with cli_database.read() as connection:
        key = load_keys(connection)[hash_secret(secret)]
    assert (key.owner, key.scopes, key.routes) == ("team", {"inference", "operator"}, {"declared"})
    assert secret not in good(cli("key", "list"))
    created = json.loads(good(cli("key", "create", "--scope", "inference", "--json")))
    assert created["secret"].startswith("us-")
    good(cli("key", "revoke", key.id))
    listed = json.loads(good(cli("key", "list", "--json")))
    assert [(item["owner"] == "team", item["revoked"] is None) for item in listed] == [(True, False), (False, True)]
    assert all("secret" not in item for item in listed)
    assert "revoked already" in failed(cli("key", "revoke", key.id))


def test_db_upgrade(cli):
    result = cli("db", "upgrade")
    good(result)
    assert f"has schema {head()}" in result.stderr


@pytest.mark.postgres
def test_a_postgres_waits_for_db_upgrade(cli, cli_config, postgres):
    cli_config.write_text(cli_config.read_text() + f'[database]\nurl = "{postgres.create()}"\n')
    assert "has no schema yet: run `understudy db upgrade`" in failed(cli("adapter", "list"))
    good(cli("db", "upgrade"))
    assert json.loads(good(cli("adapter", "list", "--json"))) == []
