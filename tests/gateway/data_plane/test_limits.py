import errno
import os
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import ConfigError
from gateway.data_plane import limits
from gateway.data_plane.auth import Principal
from gateway.data_plane.limits import Limiter


def principal(rpm: int = 0, tpm: int = 0, key: str = "key-1") -> Principal:
    return Principal("owner", b"aaaa", key, frozenset({"inference"}), frozenset(), rpm, tpm)


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(tmp_path: Path, clock: Clock) -> Limiter:
    return Limiter(tmp_path / "limits", clock)


def test_requests_per_minute(limiter: Limiter, clock: Clock) -> None:
    who = principal(rpm=3)
    assert [limiter.reserve(who, 0).allowed for _ in range(4)] == [True, True, True, False]
    refused = limiter.reserve(who, 0)
    assert (refused.reason, refused.retry_after, refused.limit) == ("requests", pytest.approx(20), 3)
    clock.now += 20
    assert [limiter.reserve(who, 0).allowed for _ in range(2)] == [True, False]
    clock.now += 1000
    assert [limiter.reserve(who, 0).allowed for _ in range(4)] == [True, True, True, False]


def test_tokens_are_reserved_and_settled(limiter: Limiter, clock: Clock) -> None:
    who = principal(tpm=600)
    first = limiter.reserve(who, 500)
    assert (first.allowed, first.reserved) == (True, 500)
    refused = limiter.reserve(who, 200)
    assert (refused.allowed, refused.reason, refused.retry_after) == (False, "tokens", pytest.approx(10))
    limiter.settle(who, first.reserved, 100)
    assert limiter.reserve(who, 500).allowed
    assert not limiter.reserve(who, 1).allowed
    limiter.settle(who, 500, 1100)  # more than was thought: a debt of a minute
    clock.now += 59
    assert not limiter.reserve(who, 1).allowed
    clock.now += 1.2
    assert limiter.reserve(who, 1).allowed


def test_both_or_neither(limiter: Limiter) -> None:
    who = principal(rpm=5, tpm=100)
    assert limiter.reserve(who, 100).allowed
    for _ in range(10):
        assert limiter.reserve(who, 100).reason == "tokens"
    limiter.settle(who, 100, 0)
    assert [limiter.reserve(who, 0).allowed for _ in range(5)] == [True] * 4 + [False]  # refusals cost no request


@pytest.mark.parametrize("tokens", [101, 10**9, 10**400])
def test_an_estimate_above_the_limit_is_served_when_the_bucket_is_full(limiter: Limiter, tokens: int) -> None:
    who = principal(tpm=100)
    assert limiter.reserve(who, tokens).reserved == 100
    assert not limiter.reserve(who, tokens).allowed


@pytest.mark.parametrize("used", [10**400, 2**63, -1, -(10**400)])
def test_an_absurd_usage_costs_ten_minutes_at_most(limiter: Limiter, clock: Clock, used: int) -> None:
    who = principal(tpm=100)
    limiter.settle(who, limiter.reserve(who, 100).reserved, used)
    limiter.settle(who, 0, used)
    clock.now += limits.LONGEST_DEBT
    assert limiter.reserve(who, 100).allowed


def test_negative_and_empty_estimates_take_nothing(limiter: Limiter) -> None:
    who = principal(tpm=10)
    assert limiter.reserve(who, -5).reserved == 0
    assert limiter.reserve(who, 10).allowed


def test_headers_are_openais(limiter: Limiter, clock: Clock) -> None:
    found = dict(limiter.reserve(principal(rpm=60, tpm=6000), 150).headers)
    assert found == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"1s",
        b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"5850",
        b"x-ratelimit-reset-tokens": b"1.5s",
    }
    clock.now += 0.988
    assert dict(limiter.reserve(principal(rpm=60, tpm=6000), 0).headers)[b"x-ratelimit-reset-requests"] == b"1.1s"
    assert dict(limiter.reserve(principal(rpm=6000, key="k"), 0).headers) == {
        b"x-ratelimit-limit-requests": b"6000",
        b"x-ratelimit-remaining-requests": b"5999",
        b"x-ratelimit-reset-requests": b"10ms",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, b"0ms"),
        (0.0001, b"1ms"),
        (0.9999, b"1000ms"),
        (1.0, b"1s"),
        (58.97, b"59s"),
        (59.01, b"1m0s"),
        (90.0, b"1m30s"),
        (600.0, b"10m0s"),
        (119.96, b"2m0s"),
        (119.6, b"2m0s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: bytes) -> None:
    assert limits._duration(seconds) == text
    assert re.fullmatch(rb"\d+ms|\d+(\.\d)?s|\d+m[0-5]?\ds", limits._duration(seconds))


def test_a_refusal_says_what_to_do(limiter: Limiter) -> None:
    who = principal(rpm=1)
    limiter.reserve(who, 0)
    error = limiter.reserve(who, 0).refusal()
    assert (error.status, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert error.message == "this key's limit of 1 requests per minute is reached: try again in 60.0 s"
    headers = dict(error.headers)
    assert headers["retry-after"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "0"


@given(
    rpm=st.sampled_from([0, 1, 7, 60, 1000]),
    tpm=st.sampled_from([0, 1, 90, 1000]),
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400), st.integers(0, 500)), max_size=40),
)
def test_like_two_plain_buckets(
    tmp_path_factory: pytest.TempPathFactory, rpm: int, tpm: int, steps: list[tuple[int, int, int]]
) -> None:
    """Against buckets kept as levels in exact fractions."""
    clock = Clock(0.0)
    limiter = Limiter(tmp_path_factory.mktemp("limits") / "limits", clock)
    who = principal(rpm, tpm)
    levels = [Fraction(rpm), Fraction(tpm)]
    half = Fraction(1, 2)
    for seconds, tokens, used in steps:
        clock.now += seconds
        for index, limit in enumerate((rpm, tpm)):
            levels[index] = max(levels[index] + Fraction(seconds * limit, 60), Fraction(-9 * limit))
            levels[index] = min(levels[index], Fraction(limit))
        wanted = min(tokens, tpm)
        expected = (not rpm or levels[0] + half >= 1) and (not tpm or levels[1] + half >= wanted)
        close = (rpm and levels[0] + half == 1) or (tpm and levels[1] + half == wanted)
        decision = limiter.reserve(who, tokens)
        if close:
            return  # rounding decides
        assert decision.allowed == expected
        if not decision.allowed:
            assert decision.retry_after > 0
            continue
        levels[0] -= bool(rpm)
        levels[1] += (wanted if tpm else 0) * -1
        limiter.settle(who, decision.reserved, used)
        levels[1] += wanted - min(used, 10 * tpm) if tpm else 0


def test_many_keys_never_mix(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOTS", 8)
    one, two = Limiter(tmp_path / "limits", clock), Limiter(tmp_path / "limits", clock)
    names = [f"key-{number}" for number in range(20)]  # seven have a slot, the others are counted per process
    for limiter in (one, two):
        for name in names:
            limiter.reserve(principal(rpm=10, key=name), 0)
    left = [dict(one.reserve(principal(rpm=10, key=name), 0).headers) for name in names]
    assert [int(headers[b"x-ratelimit-remaining-requests"]) for headers in left] == [7] * 7 + [8] * 13


def test_slots_of_idle_keys_are_taken_over_and_found_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SLOTS", 3)
    one, two = Limiter(tmp_path / "limits", clock), Limiter(tmp_path / "limits", clock)
    for number in range(50):
        who = principal(rpm=2, key=f"key-{number % 10}")
        assert [one.reserve(who, 0).allowed, two.reserve(who, 0).allowed, one.reserve(who, 0).allowed] == [
            True,
            True,
            False,
        ]
        clock.now += 61


def test_it_survives_a_restart_but_not_a_reboot(tmp_path: Path, clock: Clock) -> None:
    who = principal(rpm=1)
    first = Limiter(tmp_path / "limits", clock)
    assert first.reserve(who, 0).allowed
    first.close()
    assert not Limiter(tmp_path / "limits", clock).reserve(who, 0).allowed
    clock.now = 1.0  # the clock starts again with the machine
    assert Limiter(tmp_path / "limits", clock, b"another boot").reserve(who, 0).allowed


@pytest.mark.parametrize("damage", [b"", b"x", random.Random(1).randbytes(100), b"\xff" * limits.SLOTS * 32, b"\0" * 10])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "limits").write_bytes(damage)
    limiter = Limiter(tmp_path / "limits")
    assert [limiter.reserve(principal(rpm=2), 0).allowed for _ in range(3)] == [True, True, False]


def test_numbers_that_cannot_be_do_not_lock_a_key_out(limiter: Limiter, clock: Clock) -> None:
    who = principal(rpm=2, tpm=2)
    limiter.reserve(who, 0)
    for bad in (1e308, float("inf"), float("nan"), -1e308):
        limiter._floats[4 + 2] = limiter._floats[4 + 3] = bad
        clock.now += limits.LONGEST_DEBT
        limiter.reserve(who, 0)
        clock.now += limits.LONGEST_DEBT
        assert limiter.reserve(who, 0).allowed


def test_no_room_and_no_permission_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="rate limits cannot be kept in"):
        Limiter(tmp_path / "file" / "limits")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        Limiter(tmp_path / "limits")
