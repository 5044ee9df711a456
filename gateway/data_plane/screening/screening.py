"""Composition: one client of the guard for a worker, and the screening of each route that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.data_plane.exchange import Exchange, Finished
from gateway.data_plane.push import Downstream
from gateway.data_plane.screening.gate import Gate
from gateway.data_plane.screening.guard_client import GuardClient, Item
from gateway.data_plane.screening.policy import CATEGORIES, Judged, Policy, Ruling, compile_policy
from gateway.data_plane.screening.prompts import context, conversations
from gateway.data_plane.screening.questions import answer_flag
from gateway.data_plane.screening.said import hear_whole
from gateway.screening_settings import ScreeningSettings
from gateway.setting_types import parse_duration
from monitors.labels import ScreeningStage
from monitors.metrics import Recorder

if TYPE_CHECKING:
    from gateway.data_plane.routing import Target


class Screening:
    """One per worker, in the loop; made where any route is screened."""

    def __init__(self, settings: ScreeningSettings, recorder: Recorder) -> None:
        self._settings = settings
        self._recorder = recorder
        self.guard = GuardClient(
            settings.guard_url, settings.api_key, parse_duration(settings.timeout), settings.concurrency
        )
        self._routes: dict[str, RouteScreen | None] = {}

    def of(self, route: str) -> RouteScreen | None:
        """The screening of a route; None where it has none."""
        if route not in self._routes:
            policy = compile_policy(self._settings, route)
            found = None if policy is None else RouteScreen(policy, self._settings, self.guard, self._recorder)
            self._routes[route] = found
        return self._routes[route]

    def sweep(self, now: float) -> None:
        """Say now and then. `now`: the loop's clock."""
        self.guard.sweep(now)

    def close(self) -> None:
        """Answers that still wait for a verdict get none, and are accounted for."""
        self.guard.close()


class RouteScreen:
    """What the gates of one route share."""

    def __init__(self, policy: Policy, settings: ScreeningSettings, guard: GuardClient, recorder: Recorder) -> None:
        self.policy, self.settings, self.guard = policy, settings, guard
        self._recorder = recorder
        self._expected: set[str] = set()  # versions whose series exist

    def gate(self, exchange: Exchange, down: Downstream, account: Callable[[Finished], None]) -> Gate | None:
        """The gate of one request; embeddings have none: no text comes back."""
        if not exchange.request.endpoint.streams:
            return None
        self._expect(exchange.target)
        return Gate(self, exchange, down, account)

    def shadow(self, done: Finished, then: Callable[[], None]) -> None:
        """Judge an answer that nobody sees, as if a user had got it; then go on."""
        rules, exchange = self.policy.response, done.exchange
        name = exchange.request.endpoint.name
        texts = [one.text() for one in hear_whole(name, done.answer)[0].values()]
        texts = [text for text in texts if text.strip()]
        if rules is None or not texts:
            then()
            return
        asked = conversations(name, exchange.request.fields)
        messages = context(asked[0]) if asked else []
        items: list[Item] = [{"role": "assistant", "messages": messages, "text": text} for text in texts]

        def answered(judged: list[Judged]) -> None:
            for one in judged:
                ruling = rules.rule(one)
                self.count(exchange.target, ScreeningStage.RESPONSE, ruling)
                done.flags |= answer_flag(ruling)
                if one.score is not None:
                    done.guard_score = max(one.score, done.guard_score or 0.0)
            then()

        self._expect(exchange.target)
        self.guard.ask(items, answered)

    def count(self, target: Target, stage: ScreeningStage, ruling: Ruling) -> None:
        """One prompt or answer has its ruling."""
        self._recorder.screened(
            target.route, target.version, stage=stage, verdict=ruling.verdict, category=ruling.category
        )

    def took(self, stage: ScreeningStage, seconds: float) -> None:
        """One question to the guard is over."""
        self._recorder.screening_took(stage, seconds)

    def _expect(self, target: Target) -> None:
        if target.version not in self._expected:
            self._expected.add(target.version)
            self._recorder.screening_expected(target.route, target.version, CATEGORIES)
