import pytest

from gateway.setting_types import parse_duration


@pytest.mark.parametrize(("text", "seconds"), [("250ms", 0.25), ("1.5s", 1.5), ("2m", 120.0), ("24h", 86400.0), ("7d", 604800.0)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1w", "1s ", "\uff11s"])
def test_anything_else_names_the_forms(text):
    with pytest.raises(ValueError, match="write a number and one of ms, s, m, h, d"):
        parse_duration(text)
