"""From files to checked rows: read, deduplicated, decontaminated, mixed, encoded; everything dropped is counted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError
from trainer.chat import Chat, Encoded
from trainer.config import RL, Algorithm, DataSettings
from trainer.data_report import Found, report
from trainer.data_rows import Row, RowFile, read_files, text_of
from trainer.duplicates import TestPrompts, repeated


@dataclass(frozen=True)
class Limits:
    """Tokens: of a row at most, and of the context that is served."""

    max_length: int
    context: int


@dataclass(frozen=True)
class EncodedRow:
    """A row with its sequences: one for sft and kto, (chosen, rejected) for pairs, none (only a prompt) for RL."""

    row: Row
    sequences: tuple[Encoded, ...]


@dataclass(frozen=True)
class Dataset:
    """What a run learns from. `report` is data_report.json's content."""

    rows: list[EncodedRow] = field(default_factory=list)
    held_out: list[EncodedRow] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # file name → SHA-256
    report: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> list[dict[str, Any]]:
        """The rows as dicts of messages and columns."""
        return [encoded.row.data for encoded in self.rows]


@dataclass(frozen=True)
class Encoder:
    """Turns rows into sequences that fit; what does not is counted."""

    algorithm: Algorithm
    settings: DataSettings
    chat: Chat
    limits: Limits
    track: Callable[[Sequence[Row]], Iterable[Row]] = iter  # goes through rows, and may show how far

    def encode(self, rows: Sequence[Row], found: Found) -> list[EncodedRow]:
        """The rows that fit. Raises TrainingError for a prompt that the served context does not hold."""
        kept = (self._row(row, found) for row in self.track(rows))
        return [encoded for encoded in kept if encoded is not None]

    def _row(self, row: Row, found: Found) -> EncodedRow | None:
        sequences, limit = self._sequences(row), self.limits.max_length
        asked = sequences[0].prompt_length if sequences else len(self.chat.prompt_ids(row.data["prompt"]))
        if asked >= self.limits.context:
            raise TrainingError(
                f"{row.where}: the prompt has {asked} tokens, the engines' context {self.limits.context}: shorten it"
            )
        if max((len(sequence.input_ids) for sequence in sequences), default=asked) > limit:
            if not (self.settings.truncate and self.algorithm == "sft" and asked < limit):
                found.too_long += 1
                return None
            found.truncated += 1
            sequences = tuple(_cut(sequence, limit) for sequence in sequences)
        found.last_only += any(sequence.last_only for sequence in sequences)
        return EncodedRow(row, sequences)

    def _sequences(self, row: Row) -> tuple[Encoded, ...]:
        if self.algorithm in RL:
            return ()
        try:
            if "messages" in row.data and self.algorithm == "sft":
                return (self.chat.conversation(row.data["messages"]),)
            return tuple(self.chat.encode(row.data["prompt"], answer) for answer in row.answers())
        except TrainingError as error:
            raise TrainingError(f"{row.where}: {error}") from None


def load_dataset(encoder: Encoder, seed: int) -> Dataset:
    """Read and check everything. Raises TrainingError before anything long has begun."""
    algorithm, settings = encoder.algorithm, encoder.settings
    train, held_out = read_files(settings.train, algorithm), read_files(settings.eval, algorithm)
    general = read_files(settings.general, algorithm)
    files = (*train, *held_out, *general)
    for file in files:
        _check_texts(file, encoder.chat, settings)
    found = Found(algorithm)
    rows = [row for file in train for row in file.rows]
    found.rows = len(rows)
    rows = _decontaminated(_deduplicated(rows, settings, found), settings, held_out, found)
    rows = _mixed(rows, [row for file in general for row in file.rows], settings, seed, found)
    kept = encoder.encode(rows, found)
    if not kept:
        raise TrainingError(f"no row is left to train on: {found.losses()}; see data.* and trainer.max_length")
    _check_both_thumbs(kept, found)
    checked = encoder.encode([row for file in held_out for row in file.rows], Found(algorithm))
    digests = {_name(file.path, [other.path for other in files]): file.digest for file in files}
    made = report(found, [encoded.sequences for encoded in kept], len(checked), digests)
    return Dataset(kept, checked, digests, made)


def _name(path: Path, paths: Sequence[Path]) -> str:
    """A file's name; with its folder where another file has the same."""
    return str(path) if sum(other.name == path.name for other in paths) > 1 else path.name


def _check_texts(file: RowFile, chat: Chat, settings: DataSettings) -> None:
    """Rendered conversations, and texts that would steer the template, are not data."""
    if settings.allow_control_tokens:
        return
    for row in file.rows:
        if (mark := chat.control_token(row.text())) is not None:
            raise TrainingError(
                f"{row.where}: a text holds {mark!r}, a control token of a chat template: give plain messages "
                "(data.allow_control_tokens = true accepts it)"
            )


def _deduplicated(rows: list[Row], settings: DataSettings, found: Found) -> list[Row]:
    if not settings.deduplicate:
        return rows
    again = repeated((_identity(row) for row in rows), settings.similarity)
    found.duplicates_exact = sum(exact for _, exact in again.values())
    found.duplicates_near = len(again) - found.duplicates_exact
    found.duplicate_examples = [f"{rows[i].where} repeats {rows[first].where}" for i, (first, _) in again.items()][:5]
    return [row for i, row in enumerate(rows) if i not in again]


def _identity(row: Row) -> str:
    """What makes two rows the same: all that is said, and columns that change what is learned from it."""
    columns = {key: value for key, value in row.data.items() if key in ("label", "answer", "schema", "tests")}
    return row.text() + (f"\n{columns}" if columns else "")


def _decontaminated(rows: list[Row], settings: DataSettings, held_out: Sequence[RowFile], found: Found) -> list[Row]:
    """Without rows that a suite, or the held-out file, asks too."""
    prompts = [text for path in settings.decontaminate for text in suite_prompts(path)]
    if held_out:
        prompts += [row.prompt_text() for file in held_out for row in file.rows]
    if not prompts:
        return rows
    tests = TestPrompts(prompts, settings.similarity)
    asked = [row for row in rows if tests.asks(row.prompt_text())]
    found.contaminated = len(asked)
    found.contaminated_examples = [f"{row.where}: {row.prompt_text()[:80]}" for row in asked[:5]]
    dropped = {id(row) for row in asked}
    return [row for row in rows if id(row) not in dropped]


def suite_prompts(path: Path) -> list[str]:
    """What an evaluation suite asks: the last message of every prompt. Raises TrainingError when it asks nothing."""
    from trainer.suite import load_suite

    prompts = [text_of(messages[-1]) for messages in load_suite(path).prompts() if messages]
    if not prompts:
        raise TrainingError(f"data.decontaminate: suite {path} has no prompts")
    return prompts


def _mixed(rows: list[Row], general: list[Row], settings: DataSettings, seed: int, found: Found) -> list[Row]:
    """With so many rows of the general files that they make up data.general_share."""
    if not general:
        return rows
    wanted = round(settings.general_share / (1 - settings.general_share) * len(rows))
    chosen = general if wanted >= len(general) else random.Random(seed).sample(general, wanted)
    found.general, found.general_wanted = len(chosen), wanted
    return [*rows, *chosen]


def _cut(sequence: Encoded, length: int) -> Encoded:
    return replace(sequence, input_ids=sequence.input_ids[:length], labels=sequence.labels[:length])


def _check_both_thumbs(kept: list[EncodedRow], found: Found) -> None:
    if found.algorithm != "kto":
        return
    found.thumbs_up = sum(encoded.row.data["label"] for encoded in kept)
    if found.thumbs_up in (0, len(kept)):
        raise TrainingError(f"only labels of one kind are left after the checks ({found.losses()}): KTO needs both")
