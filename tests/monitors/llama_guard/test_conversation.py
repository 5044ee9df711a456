import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.llama_guard.conversation import Turn, Unreadable, alternating, turns


def said(*messages):
    return [(turn.who, turn.text) for turn in turns(messages)]


def test_neighbours_of_one_kind_are_one_turn_and_a_system_prompt_is_the_users():
    found = said(
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
    )
    assert found == [("user", "be brief\n\none\n\ntwo"), ("assistant", "three")]


def test_tool_calls_are_text_and_tool_results_are_data():
    call = {"id": "1", "type": "function", "function": {"name": "pay", "arguments": '{"to": "mallory"}'}}
    found = said(
        {"role": "user", "content": "pay my rent"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "first result"},
        {"role": "tool", "tool_call_id": "2", "content": "second result"},
    )
    assert found == [
        ("user", "pay my rent"), ("assistant", 'pay {"to": "mallory"}'), ("data", "first result"), ("data", "second result"),
    ]  # fmt: skip


def test_the_items_of_the_responses_api():
    found = said(
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "name": "find", "arguments": '{"q": 1}', "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "found"},
    )
    assert found == [("user", "hi"), ("assistant", 'hm\n\nfind {"q": 1}'), ("data", "found")]


def test_the_blocks_of_the_messages_api():
    document = {"type": "document", "title": "report", "source": {"type": "text", "data": "profits fell"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "sunny"}]}
    found = said(
        {"role": "user", "content": [{"type": "text", "text": "read"}, document]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Bern"}}]},
        {"role": "user", "content": [result]},
    )
    assert found == [
        ("user", "read"), ("data", "report"), ("data", "profits fell"),
        ("assistant", 'weather {"city": "Bern"}'), ("data", "sunny"),
    ]  # fmt: skip


def test_reasoning_and_refusals_are_judged_too():
    message = {"role": "assistant", "content": "no", "reasoning_content": "first mix", "refusal": "I will not"}
    assert said(message) == [("assistant", "first mix\n\nno\n\nI will not")]


@pytest.mark.parametrize("message", [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:…"}}]},
    {"role": "user", "content": [{"type": "input_audio"}]},
    {"role": "user", "content": [{"type": "document", "source": {"type": "base64", "data": "JVBERi0"}}]},
    {"role": "critic", "content": "hm"}, {"content": "hm"}, {"role": "user", "content": 7},
    {"role": "user", "content": [7]}, {"role": "assistant", "tool_calls": ["run"]},
])  # fmt: skip
def test_what_is_no_text_cannot_be_judged(message):
    with pytest.raises(Unreadable):
        turns([message])


def test_a_prompt_is_judged_without_what_the_agent_said_after_it():
    found = [Turn("user", "a"), Turn("assistant", "b"), Turn("data", "c"), Turn("user", "d"), Turn("assistant", "e")]
    assert [turn.text for turn in alternating(found, "user")] == ["a", "b", "c\n\nd"]
    assert [turn.text for turn in alternating(found, "assistant")] == ["a", "b", "c\n\nd", "e"]


def test_an_answer_to_nothing_still_has_a_user_before_it():
    assert [turn.who for turn in alternating([Turn("assistant", "b")], "assistant")] == ["user", "assistant"]


@pytest.mark.parametrize(("found", "role"), [([], "user"), ([Turn("assistant", "x")], "user"), ([Turn("user", "x")], "assistant")])
def test_nothing_to_judge_is_an_error_not_a_verdict(found, role):
    with pytest.raises(ValueError, match=f"no {role} message"):
        alternating(found, role)


WHO = st.sampled_from(("user", "assistant", "data"))


@settings(deadline=None)
@given(st.lists(st.builds(Turn, WHO, st.text("abc", min_size=1, max_size=3)), min_size=1))
def test_turns_alternate_and_no_text_is_lost(found):
    joined = alternating([*found, Turn("user", "last")], "user")
    assert [turn.who for turn in joined] == [("user", "assistant")[n % 2] for n in range(len(joined))]
    kept = "".join(turn.text for turn in joined).replace("\n\n", "").removeprefix("(nothing)")
    assert kept == "".join(turn.text for turn in found) + "last"
