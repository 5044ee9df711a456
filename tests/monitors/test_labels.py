"""The values that labels may have."""

import re

import pytest

from monitors import labels


@pytest.mark.parametrize("name", ["Outcome", "Endpoint", "ArmName", "FeedbackKind", "EventKind", "ShadowOutcome"])
def test_values_are_plain_words_and_fit_their_columns(name: str) -> None:
    values = [member.value for member in getattr(labels, name)]
    assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"[a-z_]{0,12}", value) for value in values)
