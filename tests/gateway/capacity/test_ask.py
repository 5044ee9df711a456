"""Options, and where what was not said comes from."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError
from gateway.capacity.ask import parse_ladder, parse_share, parse_time


def test_texts_of_options():
    assert [parse_share("--share", text) for text in ("99%", "0.5", " 5 % ".replace(" %", "%"))] == [0.99, 0.5, 0.05]
    assert parse_time("--ttft", "500ms") == 0.5
    assert parse_ladder("16,1,4,4") == (1, 4, 16)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: parse_share("--share", "most"), "--share 'most' is no share"),
        (lambda: parse_time("--ttft", "1"), "--ttft: '1' is not a duration"),
        (lambda: parse_ladder("1,two"), "--measure '1,two'"),
        (lambda: parse_ladder("0"), "--measure '0'"),
        (lambda: parse_ladder("1,5000"), "up to 4096"),
        (lambda: parse_ladder(""), "--measure ''"),
    ],
    ids=["share", "time", "words", "zero", "many", "empty"],
)
def test_what_cannot_be_read_is_one_line(call, says):
    with pytest.raises(ConfigError, match=says):
        call()
