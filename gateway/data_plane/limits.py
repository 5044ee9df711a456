"""Requests and tokens per minute per key, exact across the workers of one host (hosts do not share them).

Each limit is a bucket that holds one minute's worth and refills steadily, kept as a single number: the time at which
it will be full again (the generic cell rate algorithm, ITU-T I.371). One number is one aligned store, so a worker
killed in the middle leaves nothing half-written. The numbers live in a memory-mapped file that all workers share; a
byte-range lock per key, which the kernel releases with its process, makes read and write one step.

A slot belongs to the key whose digest it carries, so keys never mix. A full bucket says nothing that a missing one
does not: slots of idle keys are taken over when new keys come. Tokens are reserved by an estimate and settled when the
engine has counted; an estimate above the limit counts as the whole limit, or the request could never be served.
Only keys with limits come here. One Limiter per process, used by one thread: the locks are the process's.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adapters.errors import ConfigError
from gateway.data_plane.auth import Principal
from gateway.errors import ApiError, rate_limited
from monitors.conventions import LimitReason

if TYPE_CHECKING:
    Floats = memoryview[float]

WINDOW: Final = 60.0  # seconds a full bucket lasts
LONGEST_DEBT: Final = 600.0  # seconds: what an answer longer than its estimate can cost at most
SLOTS = 8192
_MOST_WINDOWS: Final = int(LONGEST_DEBT / WINDOW)
_SLOT: Final = 32  # bytes: tag 16, full again 2 × 8 (requests, tokens); slot 0 is the file's header
_TAG: Final = 16
_TRIES: Final = 200

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request may go on, and what the client is told."""

    allowed: bool
    headers: tuple[Header, ...] = ()  # x-ratelimit-*, for allowed and refused answers alike
    reserved: int = 0  # tokens, for settle()
    reason: LimitReason | None = None  # which limit refused
    retry_after: float = 0.0  # seconds
    limit: int = 0  # the limit that refused, per minute

    def refusal(self) -> ApiError:
        """The 429 of a refused request."""
        what = f"{self.limit} {self.reason} per minute"
        message = f"this key's limit of {what} is reached: try again in {self.retry_after:.1f} s"
        headers = [(name.decode(), value.decode()) for name, value in self.headers]
        return rate_limited(message, self.retry_after, str(self.reason), headers)


class Limiter:
    """Opens or makes the file at `path`. `clock`: seconds, the same for all processes. Raises ConfigError.

    `boot`: since when that clock runs; what another boot left is forgotten. None: this machine's.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, boot: bytes | None = None
    ) -> None:
        header = _header(_this_boot() if boot is None else boot)
        self._clock = clock
        self._where: dict[str, tuple[int, bytes]] = {}  # key id → slot, tag
        self._overflow: dict[str, Floats] = {}
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._lock(0)
            try:
                # Reserved, not sparse: a store into a page the disk has no room for would kill the process.
                os.posix_fallocate(self._file, 0, SLOTS * _SLOT)
                self._bytes = mmap.mmap(self._file, SLOTS * _SLOT)
                if self._bytes[:_SLOT] != header:  # new, of another release, or from before a reboot
                    self._bytes[:] = header + bytes((SLOTS - 1) * _SLOT)
            finally:
                self._unlock(0)
        except OSError as error:
            raise ConfigError(f"rate limits cannot be kept in {path}: {error.strerror}") from None
        self._floats = memoryview(self._bytes).cast("d")

    def reserve(self, principal: Principal, tokens: int) -> Decision:
        """Take one request and `tokens` (an estimate) from the key's buckets, both or neither."""
        slot, floats, index = self._find(principal.key_id)
        try:
            return self._take(principal, max(tokens, 0), floats, index)
        finally:
            self._unlock(slot)

    def settle(self, principal: Principal, reserved: int, used: int) -> None:
        """The engine counted `used` tokens where `reserved` were taken: correct the bucket. Once per reservation."""
        limit = principal.tokens_per_minute
        if limit <= 0 or used == reserved:
            return
        extra = (min(max(used, 0), limit * _MOST_WINDOWS) - reserved) * WINDOW / limit
        slot, floats, index = self._find(principal.key_id)
        floats[index + 1] = _possible(floats[index + 1] + extra, self._clock())
        self._unlock(slot)

    def close(self) -> None:
        """Close the file; what it holds stays."""
        self._floats.release()
        self._bytes.close()
        os.close(self._file)

    def _take(self, principal: Principal, tokens: int, floats: Floats, index: int) -> Decision:
        now = self._clock()
        requests = _Bucket(LimitReason.REQUESTS, principal.requests_per_minute, floats[index], now)
        wanted = _Bucket(LimitReason.TOKENS, principal.tokens_per_minute, floats[index + 1], now)
        tokens = min(tokens, wanted.limit) if wanted.limit else 0
        late = max((requests.wait(1), requests), (wanted.wait(tokens), wanted), key=lambda pair: pair[0])
        floats[index], floats[index + 1] = requests.full_at, wanted.full_at
        if late[0] > 0.0:
            headers = (*requests.headers(), *wanted.headers())
            return Decision(False, headers, 0, late[1].reason, late[0], late[1].limit)
        floats[index] = requests.take(1)
        floats[index + 1] = wanted.take(tokens)
        return Decision(True, (*requests.headers(), *wanted.headers()), tokens)

    def _find(self, key_id: str) -> tuple[int, Floats, int]:
        """(slot, numbers, index of the first) of a key, its slot locked. Slot -1: no room, counted in this process."""
        known = self._where.get(key_id)
        if known is not None:
            slot, tag = known
            self._lock(slot)
            if self._bytes[slot * _SLOT : slot * _SLOT + _TAG] == tag:
                return slot, self._floats, slot * 4 + 2
            self._unlock(slot)  # taken over while this key was idle
        tag = hashlib.sha256(key_id.encode()).digest()[:_TAG]
        slot = self._claim(tag)
        if slot < 0:
            return -1, self._overflow.setdefault(key_id, memoryview(bytearray(16)).cast("d")), 0
        self._where[key_id] = (slot, tag)
        return slot, self._floats, slot * 4 + 2

    def _claim(self, tag: bytes) -> int:
        """The slot with this tag, else a free or idle one, locked; -1 when all are busy. Rare, so a plain scan."""
        self._lock(0)
        try:
            now, idle = self._clock(), -1
            for slot in range(1, SLOTS):
                found = self._bytes[slot * _SLOT : slot * _SLOT + _TAG]
                if found == tag:
                    self._lock(slot)
                    return slot
                if idle < 0 and self._is_idle(slot, now):
                    idle = slot
                if not any(found):  # slots fill from the front: nothing behind a free one
                    break
            if idle < 0:
                return -1
            self._lock(idle)
            if not self._is_idle(idle, now):  # its owner came back just now
                self._unlock(idle)
                return -1
            self._bytes[idle * _SLOT : (idle + 1) * _SLOT] = tag + bytes(_SLOT - _TAG)
            return idle
        finally:
            self._unlock(0)

    def _is_idle(self, slot: int, now: float) -> bool:
        return max(self._floats[slot * 4 + 2], self._floats[slot * 4 + 3]) <= now

    def _lock(self, slot: int) -> None:
        """Held for microseconds. A holder that was stopped must not stop everybody: after a few ms go on without."""
        for attempt in range(_TRIES if slot >= 0 else 0):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
            except OSError:  # held by another process
                time.sleep(0 if attempt < _TRIES // 2 else 0.0001)
            else:
                return

    def _unlock(self, slot: int) -> None:
        if slot >= 0:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)


class _Bucket:
    """One limit's arithmetic. `full_at` is when it is full again; `limit` 0 = no limit."""

    __slots__ = ("full_at", "limit", "now", "reason", "unit")

    def __init__(self, reason: LimitReason, limit: int, full_at: float, now: float) -> None:
        self.reason, self.limit, self.now = reason, limit, now
        self.full_at = _possible(full_at, now)
        self.unit = WINDOW / limit if limit > 0 else 0.0  # seconds in which one refills

    def wait(self, amount: int) -> float:
        """Seconds until `amount` fits; 0 = it fits now. Half a unit of grace absorbs rounding."""
        late = self.full_at + amount * self.unit - self.now - WINDOW
        return late if late > self.unit / 2 else 0.0

    def take(self, amount: int) -> float:
        """Take it; returns the number to store."""
        self.full_at += amount * self.unit
        return self.full_at

    def headers(self) -> tuple[Header, ...]:
        """OpenAI's three headers for this limit."""
        if not self.limit:
            return ()
        missing = self.full_at - self.now
        remaining = max(0, int((WINDOW - missing) / self.unit + 0.5))
        name = self.reason.encode()
        return (
            (b"x-ratelimit-limit-" + name, b"%d" % self.limit),
            (b"x-ratelimit-remaining-" + name, b"%d" % remaining),
            (b"x-ratelimit-reset-" + name, _duration(missing)),
        )


def _possible(full_at: float, now: float) -> float:
    """Not in the past, not beyond the longest debt, and a number, whatever the file says."""
    if not full_at > now:
        return now
    return min(full_at, now + LONGEST_DEBT)


def _duration(seconds: float) -> bytes:
    """As OpenAI writes it, rounded up: 12ms, 1.5s, 6m0s."""
    if seconds < 1.0:
        return b"%dms" % math.ceil(seconds * 1000)
    if seconds < 59.0:
        return f"{math.ceil(seconds * 10) / 10:g}s".encode()
    return b"%dm%ds" % divmod(math.ceil(seconds), 60)


def _header(boot: bytes) -> bytes:
    """What slot 0 must say: the format, and the boot, because the clock starts again with it."""
    return b"limits 1" + hashlib.sha256(boot).digest()[: _SLOT - 8]


def _this_boot() -> bytes:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return b""
