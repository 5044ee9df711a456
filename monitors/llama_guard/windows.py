"""Texts longer than the guard's context: cut into overlapping windows, every part judged, or refused aloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitors.llama_guard.conversation import Turn, Unreadable
from monitors.llama_guard.prompt import Role

_SLACK = 16        # tokens: a piece of text may take a few more alone than it took in its place
_TURN = 8          # tokens that a template puts around one turn, at most
_CHARACTERS = 16   # in one token, at most on average: what is longer is refused before it is tokenised


@dataclass(frozen=True, slots=True)
class Window:
    """Bounds. `size`: tokens that the conversation may take in one prompt; `most`: windows of one text."""

    size: int
    most: int

    @property
    def overlap(self) -> int:
        """Tokens that neighbouring windows share, so that what is cut in one is whole in the other."""
        return min(128, self.size // 4)


class TooLong(Unreadable):
    """The text would take more windows than allowed: nothing is said about it, and that is not safe."""


def windows(found: Sequence[Turn], role: Role, tokenizer: Any, bounds: Window) -> list[list[Turn]]:
    """Conversations that each fit and together judge everything in `found` (alternating, its last turn is `role`'s).

    The last turn keeps as much of what came before as fits. What does not fit of a prompt is judged by itself, whoever
    said it: a client sends the whole history. What came before an answer was judged when it came. Raises TooLong.
    """
    length = sum(len(turn.text) for turn in found)
    if length > bounds.most * bounds.size * _CHARACTERS:
        raise TooLong(f"{length} characters are more than {bounds.most} windows of {bounds.size} tokens can hold")
    cost = [_tokens(turn.text, tokenizer) + _TURN for turn in found]
    start, left = len(found), bounds.size - _SLACK
    while start and cost[start - 1] <= left:
        start -= 1
        left -= cost[start]
    while start < len(found) and found[start].who != "user":
        start += 1
    whole = [list(found[start:])] if start < len(found) else []
    if role == "assistant":
        cut = whole or _answer_windows(found, tokenizer, bounds)
    else:
        rest = "\n\n".join(turn.text for turn in found[:start])
        pieces = _pieces(rest, tokenizer, bounds.size - _SLACK - _TURN, bounds.overlap) if rest else []
        cut = [*([Turn("user", piece)] for piece in pieces), *whole]
    if len(cut) > bounds.most:
        raise TooLong(f"the text takes {len(cut)} windows of {bounds.size} tokens, {bounds.most} are allowed")
    return cut


def _answer_windows(found: Sequence[Turn], tokenizer: Any, bounds: Window) -> list[list[Turn]]:
    """An answer that does not fit beside what it answers: the end of the prompt before each piece of the answer."""
    room = bounds.size - _SLACK - 2 * _TURN
    asked = _pieces(found[-2].text, tokenizer, room // 4, 0)[-1]
    pieces = _pieces(found[-1].text, tokenizer, room - room // 4, bounds.overlap)
    return [[Turn("user", asked), Turn("assistant", piece)] for piece in pieces]


def _pieces(text: str, tokenizer: Any, size: int, overlap: int) -> list[str]:
    """`text` in pieces of at most `size` tokens; each begins `overlap` tokens before the last one's end."""
    if size <= overlap:
        raise Unreadable("the guard's context leaves no room for a text beside its own instructions")
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    pieces = []
    for start in range(0, max(1, len(spans) - overlap), size - overlap):
        part = spans[start : start + size]
        pieces.append(text[part[0][0] : part[-1][1]] if part else text)
    return pieces


def _tokens(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
