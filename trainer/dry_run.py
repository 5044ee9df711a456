"""`--dry-run`: a few rows as the model will see them, with what is trained on in colour, and the data report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from trainer.chat import IGNORED, Chat, Encoded
from trainer.data import EncodedRow
from trainer.data_report import lines
from trainer.plan import Plan

EXAMPLES = 3
NAMES = {1: ("",), 2: ("chosen", "rejected")}


def show(plan: Plan, *, as_json: bool = False) -> None:
    """Print to standard output."""
    dataset = plan.job.dataset
    if as_json:
        sys.stdout.write(json.dumps(dataset.report, indent=2, ensure_ascii=False) + "\n")
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print("Examples: grey is read, green is trained on (marked ⟦ ⟧)", markup=False)
    for encoded in dataset.rows[:EXAMPLES]:
        console.print(Text(f"\n{encoded.row.where}", style="bold"))
        for text in example(encoded, plan.chat):
            console.print(text)
    console.print()
    for line in lines(dataset.report):
        console.print(Text(line))


def example(row: EncodedRow, chat: Chat) -> Iterator[Text]:
    """The row's sequences, or for RL its prompt and the columns that reach the rewards."""
    for name, sequence in zip(NAMES.get(len(row.sequences), ()), row.sequences, strict=False):
        yield masked(sequence, chat, name)
    if "label" in row.row.data:
        yield Text(f"  label: {row.row.data['label']}")
    if not row.sequences:
        yield Text("  " + chat.tokenizer.decode(chat.prompt_ids(row.row.data["prompt"])), style="bright_black")
        columns = {key: value for key, value in row.row.data.items() if key != "prompt"}
        yield Text(f"  columns: {json.dumps(columns, ensure_ascii=False)[:200]}")


def masked(sequence: Encoded, chat: Chat, name: str = "") -> Text:
    """One sequence, special tokens included; what has loss stands between ⟦ and ⟧, also without colours."""
    text = Text(f"  {name + ': ' if name else ''}")
    start = 0
    ids, labels = sequence.input_ids, sequence.labels
    for at in range(1, len(ids) + 1):
        if at < len(ids) and (labels[at] == IGNORED) == (labels[start] == IGNORED):
            continue
        said = chat.tokenizer.decode(ids[start:at])
        read = labels[start] == IGNORED
        text.append(said if read else f"⟦{said}⟧", style="bright_black" if read else "bold green")
        start = at
    return text
