import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitors.llama_guard.conversation import Turn, Unreadable
from monitors.llama_guard.windows import TooLong, Window, windows

SMALL = Window(size=100, most=50)
WORDS = st.lists(st.sampled_from(("krund", "tea", "reverse abc", "order 12", "☃", "a cake")), min_size=1, max_size=120)


def words(n, word="tea"):
    return " ".join(f"{word}{i}" for i in range(n))


def tokens(tokenizer, turn):
    return len(tokenizer(turn.text, add_special_tokens=False)["input_ids"])


def test_what_fits_is_one_window(tokenizer):
    found = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]
    assert windows(found, "user", tokenizer, SMALL) == [found]


def test_the_last_turn_keeps_what_fits_and_the_rest_is_judged_by_itself(tokenizer):
    found = [Turn("user", words(60, "old")), Turn("assistant", "b"), Turn("user", "near"), Turn("assistant", "d"), Turn("user", "now")]
    *others, last = windows(found, "user", tokenizer, SMALL)
    assert last == found[2:]
    assert others and all(len(one) == 1 and one[0].who == "user" for one in others)
    assert "old0 " in others[0][0].text and "old59" in others[-1][0].text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(text=WORDS.map(" ".join))
def test_every_part_of_a_long_prompt_is_in_a_window_whole_across_every_cut(tokenizer, text):
    cut = windows([Turn("user", text)], "user", tokenizer, SMALL)
    assert all(tokens(tokenizer, one[-1]) <= SMALL.size for one in cut)
    position, pieces = 0, [one[0].text for one in cut]
    for number, piece in enumerate(pieces):
        start = text.find(piece, max(0, position - len(piece)))
        assert start >= 0 and start <= position, "a gap"
        if number and len(pieces) > 2 and number < len(pieces) - 1:
            assert position - start >= 10, "no overlap"
        position = max(position, start + len(piece))
    assert position == len(text)


def test_a_long_answer_is_cut_and_each_piece_stands_beside_the_end_of_its_prompt(tokenizer):
    cut = windows([Turn("user", words(40, "ask")), Turn("assistant", words(90, "say"))], "assistant", tokenizer, SMALL)
    assert len(cut) > 2
    assert all([turn.who for turn in one] == ["user", "assistant"] for one in cut)
    assert all(one[0].text.endswith("ask39") for one in cut)
    assert cut[0][1].text.startswith("say0 ") and cut[-1][1].text.endswith("say89")
    assert all(sum(tokens(tokenizer, turn) for turn in one) <= SMALL.size for one in cut)


def test_an_answer_that_fits_drops_the_oldest_turns_first(tokenizer):
    found = [Turn("user", words(60, "old")), Turn("assistant", "b"), Turn("user", "near"), Turn("assistant", "d")]
    assert windows(found, "assistant", tokenizer, SMALL) == [found[2:]]


def test_too_many_windows_are_refused_aloud(tokenizer):
    with pytest.raises(TooLong, match="3 are allowed"):
        windows([Turn("user", words(200))], "user", tokenizer, Window(100, 3))


def test_a_huge_text_is_refused_before_it_is_tokenised():
    def never(*_, **__):
        raise AssertionError("tokenised")

    with pytest.raises(TooLong, match="characters"):
        windows([Turn("user", "x" * 100_000)], "user", never, Window(100, 3))


def test_a_context_without_room_is_no_verdict(tokenizer):
    with pytest.raises(Unreadable, match="no room"):
        windows([Turn("user", words(50))], "user", tokenizer, Window(20, 10))
