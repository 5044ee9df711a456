"""A streamed answer on its way through the gate: what may leave, what waits, when the guard is asked.

The text of each choice is judged at checkpoints, 64, 128, 256, … tokens, and at its end. What is not cleared waits in a
queue, event by event, in order. In `audit` nothing waits and only whole answers are judged.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gateway.data_plane.envelope import sse_error
from gateway.data_plane.screening.outline import Outline, without
from gateway.data_plane.screening.pieces import Choice, Due, Entry
from gateway.data_plane.screening.policy import Judged, Ruling
from gateway.data_plane.screening.refusals import choices, unscreened_error
from gateway.data_plane.screening.said import Heard, hear
from gateway.data_plane.sse import split_events
from monitors.labels import ScreeningStage

if TYPE_CHECKING:
    from gateway.data_plane.screening.gate import Gate

MOST_HELD = 1024**2  # bytes that may wait; above it the engine is not read, and what is there is judged at once


class StreamBody:
    """See the module's docstring. `gate` sends, asks and counts."""

    def __init__(self, gate: Gate, outline: Outline) -> None:
        self._gate = gate
        self._outline = outline
        self._name = gate.exchange.request.endpoint.name
        self._rules = gate.policy.response
        self._holds = gate.holds_answer
        self._settings = gate.settings
        self._expected = choices(gate.exchange)
        self._queue: deque[Entry] = deque()
        self._held = 0
        self._choices: dict[int, Choice] = {}
        self._blocked: set[int] = set()
        self._gone: set[int] = set()  # choices whose end has left
        self._asking = self._ended = self._cut = False

    @property
    def full(self) -> bool:
        """True when the engine should not be read for now."""
        return self._held > MOST_HELD

    @property
    def tokens(self) -> int:
        """What the model has written, about."""
        return sum(choice.said.tokens for choice in self._choices.values())

    def write(self, data: bytes) -> None:
        """Whole events from the engine."""
        if self._cut:
            return
        if self._rules is None:  # the answer is not judged: it only waits for the prompt
            self._put(Entry(data, Heard(), speaks=True))
        else:
            for event in split_events(data):
                self._take(event)
        if self._rules is not None and self._holds:
            self._check()
        self._gate.advance()

    def finish(self) -> None:
        """The engine's answer is complete, or has broken off."""
        self._ended = True
        if not self._cut:
            self._check()
            self._gate.advance()

    def pump(self) -> None:
        """Send what may leave."""
        out: list[bytes] = []
        while self._queue and self._free(self._queue[0]):
            entry = self._queue.popleft()
            self._held -= len(entry.data)
            self._outline.left(entry.heard)
            self._gone.update(entry.heard.ends)
            out.append(entry.data)
            if entry.speaks:
                self._gate.spoke()
        if out:
            self._gate.send(b"".join(out))
        if self._ended and not self._queue:
            self._gate.close()

    # -- events in ----------------------------------------------------------------------------------------------

    def _take(self, event: bytes) -> None:
        heard = hear(self._name, event)
        self._outline.heard(heard)
        if self._blocked and heard.choices:
            event = without(event, heard.fields, self._blocked)
            if not event:
                return
        needs = self._listen(heard)
        heard.fields, heard.whole, speaks = {}, [], bool(heard.texts)
        heard.texts = []
        self._put(Entry(event, heard, needs if self._holds else (), speaks))

    def _listen(self, heard: Heard) -> tuple[tuple[int, int], ...]:
        """Add what an event says to its choices; what must be cleared before it may leave."""
        touched = set()
        for index, where, text in heard.texts:
            if index not in self._blocked:
                choice = self._choice(index)
                choice.said.add(where, text)
                choice.settled = False  # it goes on after its end: judged anew
                touched.add(index)
        for text in heard.whole:
            said = self._choice(0).said
            if text not in said:
                said.add((heard.kind, heard.index, said.length), text)
            touched.add(0)
        for index in heard.ends:
            self._choice(index).ended = True
        return tuple((index, self._choices[index].said.length) for index in touched)

    def _choice(self, index: int) -> Choice:
        found = self._choices.get(index)
        if found is None:
            found = self._choices[index] = Choice(self._settings.checkpoint)
        return found

    def _put(self, entry: Entry) -> None:
        self._queue.append(entry)
        self._held += len(entry.data)

    def _free(self, entry: Entry) -> bool:
        if not self._holds:
            return True
        chosen = self._choices
        return all(chosen[index].cleared >= length for index, length in entry.needs) and all(
            chosen[index].settled for index in entry.heard.ends if index in chosen
        )

    # -- verdicts -----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Have judged whatever is due, unless an answer of the guard's is awaited."""
        if self._rules is None or self._asking or self._cut:
            return
        due: list[Due] = []
        for index, choice in list(self._choices.items()):
            final = self._ended or (choice.ended and self._holds)
            if choice.settled or not (final or self._is_due(choice)):
                continue
            if final and choice.judged_at == choice.said.length and choice.judged is not None:
                self._rule(Due(index, choice, True, choice.said.length), choice.judged)
            elif final and not choice.said.text().strip():
                choice.cleared, choice.settled = choice.said.length, True
            else:
                due.append(Due(index, choice, final, choice.said.length))
        if not due or self._cut:
            return
        self._asking = True
        for one in due:
            one.choice.asked(self._settings.checkpoint_step)
        stage = ScreeningStage.RESPONSE if all(one.final for one in due) else ScreeningStage.PARTIAL
        texts = [(one.index, one.choice.said.text()) for one in due]
        self._gate.questions.about_answer(texts, stage, lambda judged: self._answered(due, judged))

    def _is_due(self, choice: Choice) -> bool:
        """At a checkpoint, or because no more may be held."""
        return self._holds and choice.said.length > choice.cleared and (choice.said.tokens >= choice.next or self.full)

    def _answered(self, due: list[Due], judged: list[Judged]) -> None:
        self._asking = False
        for asked, one in zip(due, judged, strict=True):
            asked.choice.judged, asked.choice.judged_at = one, asked.length
            if not self._cut:
                self._rule(asked, one)
        self._check()
        self._gate.advance()

    def _rule(self, due: Due, judged: Judged) -> None:
        assert self._rules is not None
        ruling = self._rules.rule(judged, partial=not due.final)
        if due.final or ruling.blocks:
            due.choice.settled = due.choice.said.length == due.length or ruling.blocks
            self._gate.questions.note(ruling, judged)
        if ruling.blocks:
            self._block(due.index, due.choice, ruling)
        else:
            due.choice.cleared = due.length

    def _block(self, index: int, choice: Choice, ruling: Ruling) -> None:
        """End one choice, or with the last one the stream. Without a guard everything ends."""
        self._blocked.add(index)
        several = self._name in ("chat", "completions") and self._expected > 1
        if ruling.away or not several or len(self._blocked) >= self._expected:
            self._end_here(ruling)
            return
        end = Entry(self._outline.refuse(index), Heard(ends=[index], choices=[index]), refuses=True)
        kept: deque[Entry] = deque()
        placed = False
        for entry in self._queue:
            waits = any(one == index and length > choice.cleared for one, length in entry.needs)
            if waits or index in entry.heard.ends:
                if not placed:
                    kept.append(end)  # in the place of what does not leave
                placed = True
                entry.data = without(entry.data, hear(self._name, entry.data).fields, {index})
                entry.needs = tuple(need for need in entry.needs if need[0] != index)
                entry.heard.ends = [one for one in entry.heard.ends if one != index]
            if entry.data:
                kept.append(entry)
        if not placed:
            kept.appendleft(end)
        self._queue = kept
        self._held = sum(len(entry.data) for entry in self._queue)

    def _end_here(self, ruling: Ruling) -> None:
        """Nothing more leaves but what is cleared, and the end."""
        kept: list[Entry] = []
        first = True  # everything before the first event that must wait
        for entry in self._queue:
            first = first and self._free(entry) and self._blocked.isdisjoint(entry.heard.ends)
            others = set(entry.heard.choices) - self._blocked
            if first or entry.refuses or (others and self._free(entry)):
                kept.append(entry)
        gone = self._gone | {index for entry in kept for index in entry.heard.ends}
        self._queue = deque(kept)
        self._cut = self._ended = True
        usage = self._gate.blocked(self.tokens, 503 if ruling.away else 200)
        end = sse_error(unscreened_error(), self._name) if ruling.away else self._outline.refuse_all(gone, usage)
        self._put(Entry(end, Heard()))
        self._held = sum(len(entry.data) for entry in self._queue)
