"""Response ids that prove themselves: feedback is verified and attributed from the id alone, on any host, at once.

An id is base64url, 48 characters, of

    version 1 ‖ time 6 ‖ assignment 5 ‖ owner 4 ‖ unit 8 ‖ random 4 ‖ HMAC-SHA256 over all of these, first 8 bytes

The time, in 1/65536 s, stands first so that ids made together lie together in an index: each batch of records then
writes a few pages of it, and not most of them (docs/profile.md). With 64 bits of HMAC a forger who may try a million
ids a second needs about 300,000 years. Nothing in an id comes from the client unhashed, and the client's X-Request-Id
plays no part.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import random
import re
import struct
from binascii import b2a_base64
from dataclasses import dataclass
from typing import Final

_FORMAT: Final = 2
# Time: seconds, then their fraction; assignment: its high byte, then the low four.
_BODY: Final = struct.Struct(">BIHBI4s8sI")
_BODY_BYTES, _MAC_BYTES = _BODY.size, 8
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")  # base64.urlsafe_b64encode does the same, in two calls of Python
_LENGTH: Final = (_BODY_BYTES + _MAC_BYTES) // 3 * 4
# What the endpoints put before an id (see endpoints.py), and what the engine uses on /v1/messages.
_ID: Final = re.compile(rf"(?:chatcmpl-|cmpl-|resp_|msg_|embd-)?([A-Za-z0-9_-]{{{_LENGTH}}})")


@dataclass(frozen=True, slots=True)
class ResponseId:
    """What a genuine id says."""

    text: str  # canonical: without the endpoint's prefix; the key of responses and feedback
    at: int  # seconds since the epoch
    assignment: int  # row of `assignments`: route, version, arm, share
    owner_tag: bytes  # 4 bytes, see auth.owner_tag
    unit: bytes  # 8 bytes, IdMinter.unit_hash


class Mac:
    """HMAC-SHA256 (RFC 2104) under one key, its two padded keys hashed beforehand.

    Two thirds of the time of the `hmac` module's copy and digest, whose wrappers are Python (docs/profile.md).
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        """`key` has at most 64 bytes, SHA-256's block."""
        padded = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)).copy
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded)).copy

    def digest(self, message: bytes) -> bytes:
        """32 bytes."""
        inner, outer = self._inner(), self._outer()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class IdMinter:
    """Mints and verifies ids, and hashes units. `secret` (32 bytes or more) is the one all hosts share."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the secret that signs response ids must have at least 32 bytes")
        self._id_mac = Mac(_derive(secret, b"response id"))
        self._unit_mac = Mac(_derive(secret, b"unit"))

    def mint(self, assignment: int, owner_tag: bytes, unit: bytes, now: float) -> str:
        """A new id, without the endpoint's prefix. `now` in seconds since the epoch."""
        noise = random.getrandbits(32)  # for uniqueness; the HMAC is what cannot be guessed
        time = int(now * 65536.0)
        seconds, fraction = time >> 16 & 0xFFFFFFFF, time & 0xFFFF
        body = _BODY.pack(_FORMAT, seconds, fraction, assignment >> 32, assignment & 0xFFFFFFFF, owner_tag, unit, noise)
        signed = body + self._id_mac.digest(body)[:_MAC_BYTES]
        return b2a_base64(signed, newline=False).translate(_URL_SAFE).decode("ascii")

    def verify(self, text: str) -> ResponseId | None:
        """What the id says, or None when it is not one of ours. With or without the endpoint's prefix."""
        match = _ID.fullmatch(text)
        if match is None:
            return None
        raw = base64.urlsafe_b64decode(match[1])
        body, given = raw[:_BODY_BYTES], raw[_BODY_BYTES:]
        if not hmac.compare_digest(self._id_mac.digest(body)[:_MAC_BYTES], given):
            return None
        version, seconds, _, high, low, owner_tag, unit, _ = _BODY.unpack(body)
        return ResponseId(match[1], seconds, high << 32 | low, owner_tag, unit) if version == _FORMAT else None

    def unit_hash(self, owner: str, unit: str | bytes) -> bytes:
        """8 bytes that stand for this owner's unit, HMAC(length of owner ‖ owner ‖ unit): all that is kept of it."""
        owner_bytes = owner.encode("utf-8", "surrogatepass")
        named = unit if isinstance(unit, bytes) else unit.encode("utf-8", "surrogatepass")
        return self._unit_mac.digest(len(owner_bytes).to_bytes(4, "big") + owner_bytes + named)[:8]

    @staticmethod
    def random_unit() -> bytes:
        """For a request that names no unit: it stands for itself alone."""
        return os.urandom(8)


def _derive(secret: bytes, purpose: bytes) -> bytes:
    """One key per purpose, so that a MAC made for one is worth nothing for the other."""
    return hmac.new(secret, b"understudy " + purpose, hashlib.sha256).digest()
