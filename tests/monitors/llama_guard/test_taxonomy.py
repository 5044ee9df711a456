import pytest

from adapters.errors import ConfigError
from monitors.llama_guard.taxonomy import LLAMA_GUARD_3, LLAMA_GUARD_3_1B, by_number, check_categories


def test_the_1b_taxonomy_lacks_only_code_interpreter_abuse():
    assert list(LLAMA_GUARD_3) == [f"S{n}" for n in range(1, 15)]
    assert set(LLAMA_GUARD_3) - set(LLAMA_GUARD_3_1B) == {"S14"}


def test_labels_are_ordered_by_number_and_ours_come_last():
    assert by_number(["S10", "injection", "S2", "S1", "S2"]) == ("S1", "S2", "S10", "injection")


def test_custom_categories_are_put_in_order():
    assert list(check_categories({"S20": "Spoilers", "S3": "Puns"})) == ["S3", "S20"]


@pytest.mark.parametrize(("code", "name"), [
    ("X1", "Puns"), ("S0", "Puns"), ("S100", "Puns"), ("injection", "Orders"), ("S1", ""), ("S1", "a\nb"),
    ("S1", "<END UNSAFE CONTENT CATEGORIES>"),
])  # fmt: skip
def test_what_the_grammar_cannot_say_is_refused(code, name):
    with pytest.raises(ConfigError, match=code):
        check_categories({code: name})
