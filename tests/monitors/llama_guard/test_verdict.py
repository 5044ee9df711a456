import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.llama_guard import LLAMA_GUARD_3, Verdict, parse

CODES = st.lists(st.sampled_from(list(LLAMA_GUARD_3)), min_size=1, max_size=14)
SPACE = st.text(" \t\r\n", max_size=4)
GAP = st.sampled_from(("", " ", "  "))


@settings(deadline=None)
@given(SPACE, SPACE)
def test_safe_is_safe_whatever_white_space_is_around_it(before, after):
    verdict = parse(f"{before}safe{after}")
    assert verdict == Verdict(unsafe=False) and verdict.safe


@settings(deadline=None)
@given(CODES, SPACE, SPACE, st.data())
def test_unsafe_names_its_categories_in_their_order_once_each(codes, before, after, data):
    text = codes[0]
    for code in codes[1:]:
        text += data.draw(GAP) + "," + data.draw(GAP) + code
    verdict = parse(f"{before}unsafe\n{text}{after}")
    assert verdict == Verdict(True, tuple(dict.fromkeys(codes)))
    assert not verdict.safe


@pytest.mark.parametrize("text", [
    "", "unsafe", "unsafe\n", "Safe", "SAFE", "safe.", "safe\nS1", "safe safe", "unsafe S1", "unsafe\n\nS1", "unsafe \nS1",
    "unsafe\nS0", "unsafe\nS01", "unsafe\ns1", "unsafe\nS100", "unsafe\nS1,", "unsafe\n,S1", "unsafe\nS1,,S2", "unsafe\nS1;S2",
    "unsafe\nS1\nS2", "unsafe\nS1 S2", "unsafe\nS1,\nS2", "unsafe\nS1,\tS2", "unsafe\nViolent Crimes", "unsafe\r\nS1",
    "I cannot assess this.", "unsafe\nS1 because of the knife", "not unsafe\nS1", "safe<|eot_id|>", "unsafe\nS\u0661",
])  # fmt: skip
def test_anything_else_is_unavailable_and_never_safe(text):
    verdict = parse(text)
    assert verdict == Verdict(False, (), unavailable=True)
    assert not verdict.safe


@settings(deadline=None)
@given(st.text())
def test_no_text_at_all_is_taken_for_safe_by_mistake(text):
    verdict = parse(text)
    assert verdict.safe == (text.strip() == "safe")
    assert not (verdict.unsafe and verdict.unavailable)
    assert bool(verdict.categories) == verdict.unsafe


def test_a_category_that_the_prompt_did_not_list_makes_it_unavailable():
    assert parse("unsafe\nS14", known=("S13", "S14")).categories == ("S14",)
    assert parse("unsafe\nS1,S14", known=("S1",)).unavailable
    assert parse("unsafe\nS14").categories == ("S14",)
