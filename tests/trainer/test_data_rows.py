import json
import re

import pytest

from adapters.errors import TrainingError
from trainer.data_rows import read_file

USER = {"role": "user", "content": "hi"}
SAID = {"role": "assistant", "content": "yo"}


def read(tmp_path, algorithm, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return read_file(path, algorithm)


def test_strings_stand_for_one_message_and_columns_are_kept(tmp_path):
    file = read(tmp_path, "dpo", {"prompt": "hi", "chosen": "yo", "rejected": [{**SAID, "content": "no"}], "answer": 3})
    row = file.rows[0]
    assert row.data["prompt"] == [USER]
    assert [answer[0]["content"] for answer in row.answers()] == ["yo", "no"]
    assert row.data["answer"] == 3
    assert row.where.endswith("rows.jsonl:1")
    assert row.prompt_text() == "hi"
    assert len(file.digest) == 64


def test_messages_and_tool_calls_are_read(tmp_path):
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turn = {"role": "assistant", "content": None, "tool_calls": calls}
    file = read(tmp_path, "sft", {"messages": [USER, turn, {"role": "tool", "content": "3"}, SAID]})
    assert file.rows[0].data["messages"][1]["content"] == ""
    assert '"f"' in file.rows[0].text()


@pytest.mark.parametrize(
    ("algorithm", "lines", "message"),
    [
        ("sft", [""], "is empty: expected one JSON object a line"),
        ("sft", [{"prompt": "a", "completion": "b"}, "", {}], "rows.jsonl:2: the line is empty: expected {"),
        ("sft", ["{'a': 1}"], "rows.jsonl:1: not JSON"),
        ("sft", ["[" * 100_000], "rows.jsonl:1: not JSON"),
        ("sft", ["[1]"], ":1: not an object"),
        ("sft", [{"text": "a"}], ":1: no prompt: expected {\"messages\""),
        ("sft", [{"prompt": "a"}], ":1: no completion"),
        ("sft", [{"prompt": "a", "completion": ""}], ":1: completion is \"\""),
        ("sft", [{"prompt": "a", "completion": [{**SAID, "content": ""}]}], ":1: completion says nothing"),
        ("sft", [{"prompt": [SAID], "completion": "b"}], ":1: prompt ends with the assistant"),
        ("sft", [{"prompt": [{"role": "robot", "content": "a"}], "completion": "b"}], ":1: prompt has {\"role\": \"robot\""),
        ("sft", [{"prompt": [{"role": "user", "content": 3}], "completion": "b"}], ":1: prompt has content 3"),
        ("sft", [{"messages": [USER]}], ":1: messages has no answer"),
        ("sft", [{"messages": [USER, SAID, USER]}], ":1: messages ends with user"),
        ("sft", [{"messages": [SAID]}], ":1: messages begins with the assistant"),
        ("sft", [{"messages": "hi"}], ":1: messages has no answer"),
        ("dpo", [{"prompt": "a", "chosen": "b"}], ":1: no rejected"),
        ("dpo", [{"prompt": "a", "chosen": "b", "rejected": "b"}], ":1: chosen and rejected are equal"),
        ("reward-model", [{"prompt": "a", "chosen": "b", "rejected": [SAID, USER]}], ":1: rejected must be what"),
        ("kto", [{"prompt": "a", "completion": "b", "label": "up"}], ":1: label is \"up\""),
        ("kto", [{"prompt": "a", "completion": "b", "label": True}] * 2, "all 2 labels are true"),
        ("kto", [{"prompt": "a", "completion": "b", "label": False}] * 3, "all 3 labels are false"),
        ("grpo", [{"answer": "a"}], ":1: no prompt"),
    ],
)
def test_the_first_wrong_line_is_named_with_what_was_expected(tmp_path, algorithm, lines, message):
    with pytest.raises(TrainingError, match=re.escape(message)) as caught:
        read(tmp_path, algorithm, *lines)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    with pytest.raises(TrainingError, match="does not exist: expected a JSONL file"):
        read_file(tmp_path / "none.jsonl", "sft")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_file(tmp_path, "sft")
