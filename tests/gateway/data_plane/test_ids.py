import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane.endpoints import ENDPOINTS
from gateway.data_plane.ids import IdMinter
from tests.support.python import finish, start_python

SECRET = bytes(range(32))
MINTER = IdMinter(SECRET)


@given(
    st.integers(0, 2**40 - 1),
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=8, max_size=8),
    st.floats(0, 2**32 - 1),
)
def test_an_id_says_what_was_put_in(assignment: int, owner_tag: bytes, unit: bytes, now: float) -> None:
    text = MINTER.mint(assignment, owner_tag, unit, now)
    assert len(text) == 48
    for prefix in ("", *(endpoint.id_prefix for endpoint in ENDPOINTS.values()), "msg_"):
        found = MINTER.verify(prefix + text)
        assert found is not None
        assert (found.text, found.at, found.assignment) == (text, int(now), assignment)
        assert (found.owner_tag, found.unit) == (owner_tag, unit)


def test_the_longest_stored_id_fits_its_column() -> None:
    assert len("chatcmpl-" + MINTER.mint(2**40 - 1, b"aaaa", b"bbbbbbbb", 1e9)) <= 100


@given(st.integers(0, 47), st.characters(codec="utf-8"))
def test_one_changed_character_makes_it_foreign(place: int, character: str) -> None:
    text = MINTER.mint(7, b"aaaa", b"bbbbbbbb", 1e9)
    changed = text[:place] + character + text[place + 1 :]
    assert (MINTER.verify(changed) is None) == (changed != text)


@given(st.text() | st.text("ABCDEFabcdef0123456789-_", min_size=46, max_size=60))
def test_foreign_texts_are_refused(text: str) -> None:
    assert MINTER.verify(text) is None


def test_look_alikes_are_refused() -> None:
    text = MINTER.mint(7, b"aaaa", b"bbbbbbbb", 1e9)
    standard = text.replace("-", "+").replace("_", "/")
    for other in (
        text + "=",
        text + "A",
        text[:-1],
        " " + text,
        text + "\n",
        "x-" + text,
        "chatcmpl-chatcmpl-" + text,
        "chatcmpl-" + text[:-1] + "\0",
        text[:-1] + "\udcff",
        "\uff11" + text[1:],
        *([standard] if standard != text else []),
    ):
        assert MINTER.verify(other) is None
    assert IdMinter(bytes(32)).verify(text) is None


def test_a_mac_over_another_format_is_refused() -> None:
    import hashlib
    import hmac

    key = hmac.new(SECRET, b"understudy response id", hashlib.sha256).digest()
    body = bytes([1]) + bytes(27)
    forged = base64.urlsafe_b64encode(body + hmac.digest(key, body, "sha256")[:8]).decode()
    assert MINTER.verify(forged) is None


def test_short_secrets_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        IdMinter(b"short")


def test_ids_of_one_moment_differ_and_other_hosts_verify_them() -> None:
    code = """
import sys
from gateway.data_plane.ids import IdMinter
minter = IdMinter(bytes(range(32)))
print(*(minter.mint(1, b"aaaa", b"bbbbbbbb", 1e9) for _ in range(2000)))
"""
    processes = [start_python(code) for _ in range(3)]
    ids = [text for process in processes for text in finish(process).split()]
    assert len(set(ids)) == len(ids) == 6000
    assert all(MINTER.verify(text) is not None for text in ids)


@given(st.text(), st.text(), st.text(), st.text())
def test_units_are_the_owners_own(owner: str, unit: str, other_owner: str, other_unit: str) -> None:
    hashed = MINTER.unit_hash(owner, unit)
    assert len(hashed) == 8
    assert hashed == IdMinter(SECRET).unit_hash(owner, unit)
    same = (owner, unit) == (other_owner, other_unit)
    assert (hashed == MINTER.unit_hash(other_owner, other_unit)) == same


def test_text_and_bytes_name_the_same_unit() -> None:
    assert MINTER.unit_hash("o", "användare") == MINTER.unit_hash("o", "användare".encode())
    assert MINTER.unit_hash("a\0b", "c") != MINTER.unit_hash("a", "b\0c")
    assert MINTER.unit_hash("\ud800", "\udfff") != MINTER.unit_hash("", "")
    assert MINTER.unit_hash("o", os.urandom(1 << 20)) != MINTER.unit_hash("o", b"")
    assert MINTER.random_unit() != MINTER.random_unit()
