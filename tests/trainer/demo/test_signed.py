"""The demo's own reading of response ids agrees with the gateway's, and believes no others."""

from __future__ import annotations

import pytest

from adapters.database import open_database
from adapters.fleet_store import FleetStore
from adapters.keys import server_secret
from adapters.settings import DatabaseSettings
from gateway.data_plane.ids import IdMinter
from trainer.demo.signed import Signatures, signatures

SECRET = b"s" * 32
ROWS = {5: {"route": "support", "version": "support@000000000005"}, 1 << 33: {"route": "support", "version": "far"}}


def mint(assignment: int, secret: bytes = SECRET, prefix: str = "chatcmpl-") -> str:
    return prefix + IdMinter(secret).mint(assignment, b"ownr", b"unitunit", 1.8e9)


def test_the_version_an_id_was_signed_for():
    signed = Signatures(SECRET, ROWS.get)
    assert signed.version(mint(5), "support") == "support@000000000005"
    assert signed.version(mint(1 << 33), "support") == "far"
    assert signed.version(mint(5), "other") == "" and signed.version(mint(6), "support") == ""


@pytest.mark.parametrize(
    "given", ["", "chatcmpl-1", "x" * 48, "é" * 48, mint(5)[:-1], mint(5, b"t" * 32), mint(5) + "A"],
    ids=["nothing", "another engine's", "no id", "no ascii", "cut", "of another secret", "longer"],  # minted ones differ
)
def test_what_is_not_genuine_names_no_version(given):
    assert Signatures(SECRET, ROWS.get).version(given, "support") == ""


def test_every_byte_of_an_id_is_signed():
    whole, signed = mint(5, prefix=""), Signatures(SECRET, ROWS.get)
    for place, letter in enumerate(whole):
        other = "A" if letter != "A" else "B"
        assert signed.version(whole[:place] + other + whole[place + 1 :], "support") == ""


def test_of_an_installation(tmp_path):
    (config := tmp_path / "understudy.toml").write_text('data_dir = "data"\n')
    (tmp_path / "data").mkdir()
    database = open_database(DatabaseSettings(), tmp_path / "data")
    number = FleetStore(database).assignment("support", "support@000000000007", "candidate", 0.1, rollout=1, step=1)
    given = mint(number, server_secret(database))
    database.close()
    with signatures(config) as signed:
        assert signed.version(given, "support") == "support@000000000007"
