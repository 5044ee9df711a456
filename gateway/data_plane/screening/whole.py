"""An unstreamed answer on its way through the gate: it waits whole, and leaves whole, without what is blocked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.data_plane.envelope import render
from gateway.data_plane.push import Headers
from gateway.data_plane.screening.policy import Judged
from gateway.data_plane.screening.refusals import edited, unscreened_error
from gateway.data_plane.screening.said import Fields, hear_whole
from monitors.labels import ScreeningStage

if TYPE_CHECKING:
    from gateway.data_plane.screening.gate import Gate


class WholeBody:
    """One answer. `gate` sends, asks and counts."""

    full = False
    tokens = 0

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._name = gate.exchange.request.endpoint.name
        self._rules = gate.policy.response
        self._pieces: list[bytes] = []
        self._fields: Fields | None = None
        self._blocked: set[int] = set()
        self._away = False
        self._waits = self._ended = False
        self._judged = 0

    def write(self, data: bytes) -> None:
        """A piece."""
        self._pieces.append(data)

    def finish(self) -> None:
        """It is complete: have each choice judged."""
        self._ended = True
        if self._rules is not None:
            said, self._fields = hear_whole(self._name, b"".join(self._pieces))
            texts = [(index, text) for index, one in said.items() if (text := one.text()).strip()]
            if texts:
                self._waits = self._gate.holds_answer
                self._gate.questions.about_answer(
                    texts, ScreeningStage.RESPONSE, lambda judged: self._answered(texts, judged)
                )
        self._gate.advance()

    def pump(self) -> None:
        """Send it, once it may leave."""
        if not self._ended or self._waits:
            return
        body, headers, status = b"".join(self._pieces), self._gate.head, 200
        if self._away:
            self._gate.blocked(0, 503)
            status, error_headers, body = render(unscreened_error())
            headers = _replaced(headers, error_headers)
        elif self._blocked:
            if len(self._blocked) == self._judged:
                self._gate.blocked(0)
            body = edited(self._name, self._fields or {}, self._blocked, self._gate.settings.message)
            headers = _replaced(headers, [(b"content-length", b"%d" % len(body))])
        self._gate.send(body, status, headers)
        self._gate.close()

    def _answered(self, texts: list[tuple[int, str]], judged: list[Judged]) -> None:
        assert self._rules is not None
        self._waits, self._judged = False, len(texts)
        for (index, _), one in zip(texts, judged, strict=True):
            ruling = self._rules.rule(one)
            self._gate.questions.note(ruling, one)
            if ruling.blocks:
                self._blocked.add(index)
                self._away = self._away or ruling.away
        self._gate.advance()

def _replaced(headers: Headers, new: Headers) -> Headers:
    names = {name for name, _ in new}
    return [*new, *(pair for pair in headers if pair[0] not in names)]


