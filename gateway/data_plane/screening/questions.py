"""What one request asks the guard, and what becomes known: verdicts are counted, flags and the score are kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from adapters.types import Flag
from gateway.data_plane.exchange import Exchange
from gateway.data_plane.screening.guard_client import Ask, Item, Then
from gateway.data_plane.screening.policy import Judged, Ruling
from gateway.data_plane.screening.prompts import Message, context, conversations, questions
from monitors.labels import ScreeningStage, Verdict

if TYPE_CHECKING:
    from gateway.data_plane.screening.screening import RouteScreen

logger = logging.getLogger("understudy.screening")


class Questions:
    """Of one request. `settled` is called after each answer of the guard; `safely` runs what is done with it."""

    __slots__ = (
        "_asked_first", "_asks", "_conversations", "_exchange", "_safely", "_screen", "_settled", "benign", "flags",
        "score",
    )  # fmt: skip

    def __init__(
        self, screen: RouteScreen, exchange: Exchange, safely: Callable[[Callable[[], None]], None],
        settled: Callable[[], None],
    ) -> None:  # fmt: skip
        self._screen, self._exchange = screen, exchange
        self._safely, self._settled = safely, settled
        self._asks: set[Ask] = set()
        self._asked_first: Ask | None = None  # about the prompt
        self._conversations: list[list[Message]] = []
        self.flags = 0  # adapters.types.Flag
        self.benign = False  # the prompt is safe
        self.score: float | None = None  # the answer's highest P(unsafe)

    @property
    def open(self) -> bool:
        """True while the guard owes an answer."""
        return bool(self._asks)

    def about_prompt(self, then: Callable[[Ruling], None]) -> bool:
        """Have the prompt judged: the worst of its rulings counts. False where there is nothing to judge."""
        request, rules = self._exchange.request, self._screen.policy.prompt
        self._conversations = conversations(request.endpoint.name, request.fields)
        items = [question for one in self._conversations for question in questions(one)]
        if rules is None or not items:
            return False

        def judged(results: list[Judged]) -> None:
            rulings = [rules.rule(one) for one in results]
            worst = max(rulings, key=lambda one: (one.blocks, one.verdict is not Verdict.SAFE, one.verdict))
            self._count(ScreeningStage.PROMPT, worst)
            if worst.verdict is Verdict.UNSAFE:
                self.flags |= int(Flag.UNSAFE_PROMPT)
            self.benign = worst.verdict is Verdict.SAFE
            then(worst)

        self._asked_first = self._ask(items, ScreeningStage.PROMPT, judged)
        return True

    def about_answer(self, texts: list[tuple[int, str]], stage: ScreeningStage, then: Then) -> None:
        """Have (choice, text) judged, each after the prompt that it answers."""
        each = self._exchange.request.fields.get("n") or 1
        items: list[Item] = []
        for index, text in texts:
            place = index // each
            asked = self._conversations[place] if place < len(self._conversations) else []
            items.append({"role": "assistant", "messages": context(asked), "text": text})
        self._ask(items, stage, then)

    def note(self, ruling: Ruling, judged: Judged) -> None:
        """A choice of the answer has its final ruling."""
        self._count(ScreeningStage.RESPONSE, ruling)
        self.flags |= answer_flag(ruling)
        if judged.score is not None:
            self.score = max(judged.score, self.score or 0.0)

    def drop(self) -> None:
        """Nobody wants to know any more."""
        self._asked_first = None
        self.drop_answers()

    def drop_answers(self) -> None:
        """The answer is decided; what is to become of the prompt still matters."""
        kept = {self._asked_first} & self._asks
        dropped, self._asks = self._asks - kept, {ask for ask in kept if ask is not None}
        for ask in dropped:
            ask.cancel()

    def _count(self, stage: ScreeningStage, ruling: Ruling) -> None:
        """Metrics, and a line in the log for what is blocked; never a text."""
        self._screen.count(self._exchange.target, stage, ruling)
        if ruling.blocks and not ruling.away:  # a guard that is away is said once, by the circuit
            why = ruling.category or ruling.reason
            logger.info("%s blocked: %s", stage, why, extra={"response_id": self._exchange.response_id})

    def _ask(self, items: list[Item], stage: ScreeningStage, then: Then) -> Ask:
        began = time.monotonic()

        def answered(judged: list[Judged]) -> None:
            self._asks.discard(ask)
            self._screen.took(stage, time.monotonic() - began)
            self._safely(lambda: then(judged))
            self._settled()

        ask = self._screen.guard.ask(items, answered, urgent=stage is not ScreeningStage.PROMPT)
        self._asks.add(ask)
        return ask


def answer_flag(ruling: Ruling) -> int:
    """What a ruling on an answer says about the version that gave it: a Flag."""
    return {Verdict.UNSAFE: int(Flag.GUARD), Verdict.UNAVAILABLE: int(Flag.UNSCREENED)}.get(ruling.verdict, 0)
