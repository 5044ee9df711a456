"""One worker process of the data plane: composition, start and stop. State it owns: connection pools and counters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from adapters.database import open_database
from adapters.fleet_store import FleetStore
from adapters.keys import server_secret
from adapters.response_store import ResponseStore
from adapters.snapshot import Snapshot
from adapters.types import ApiKey
from gateway.config import EngineSettings, GatewaySettings, Settings, is_loopback, parse_duration
from gateway.data_plane import feedback
from gateway.data_plane.accounting import Accountant
from gateway.data_plane.auth import Authenticator, Principal
from gateway.data_plane.breaker import Breakers, Trip
from gateway.data_plane.call import Timeouts
from gateway.data_plane.events import EventWriter
from gateway.data_plane.evidence import Evidence
from gateway.data_plane.grading import Grading
from gateway.data_plane.handler import Handler, Services
from gateway.data_plane.ids import IdMinter
from gateway.data_plane.limits import Limiter
from gateway.data_plane.route_table import TableCompiler
from gateway.data_plane.screening.screening import RouteScreen, Screening
from gateway.data_plane.shadow import Shadows
from gateway.data_plane.task_rules import compile_rules
from gateway.data_plane.upstreams import SWEEP, Upstream
from gateway.data_plane.watcher import SnapshotWatcher
from gateway.errors import unavailable
from monitors.metrics import Recorder
from monitors.shared_values import SharedValues

FLUSH = 5.0  # seconds at shutdown for records that are not yet written
GRADING = 1.0  # … for a request to the scoring service that is under way; it may be away
SCORING = 30.0  # seconds the scoring service may take for one batch
STALE_AFTER = 60.0  # seconds without the database after which the worker says it is not ready for new traffic


logger = logging.getLogger("understudy.worker")


class Worker:
    """Everything one process needs to answer requests. Enter it inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self._timeouts = _timeouts(settings.gateway)
        self._upstreams: dict[str, Upstream] = {}
        self._breakers = Breakers()
        self._compiler = TableCompiler(
            settings.engine.served_name, compile_rules(settings.route), self._upstreams.get, self._breakers,
            settings.rewards.sample, settings.gateway.workers, self._screen,
        )  # fmt: skip
        self._retired: list[Upstream] = []
        self._screening: Screening | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        """Start; on leaving, flush what was counted and close what is open. Raises UnderstudyError."""
        settings = self.settings
        self.database = open_database(settings.database, settings.data_dir)
        self._assignments = feedback.Assignments(FleetStore(self.database).assignments_by_id)
        self.values = SharedValues(settings.data_dir / "metrics")
        recorder = Recorder(self.values)
        self.events = EventWriter(ResponseStore(self.database), recorder.events_dropped)
        if settings.screening.active:
            self._screening = Screening(settings.screening, recorder)
        minter = IdMinter(server_secret(self.database))
        limiter = Limiter(settings.data_dir / "limits")
        grading = _grading(settings, recorder)
        evidence = Evidence(self.events, recorder, grading)
        self._shadows = Shadows(minter, self._in_flight, recorder.shadow, _prioritised(settings.engine))
        accountant = Accountant(limiter, recorder, self.events, evidence, self._shadows, self._tripped)
        self._shadows.finished = accountant.shadow
        max_n = settings.gateway.max_n
        self.services = Services(self._authenticator([]), limiter, minter, recorder, self.events, accountant, max_n)
        self.handler = Handler(self.services)
        self.watcher = SnapshotWatcher(self.database, self._install, self._install_keys)
        self.watcher.start()
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield self
        finally:
            sweeper.cancel()
            self.watcher.stop()
            self._shadows.close()
            for upstream in (*self._upstreams.values(), *self._retired):
                upstream.close()
            if self._screening is not None:
                self._screening.close()
            evidence.close()
            await asyncio.to_thread(_close, grading, self.events)
            limiter.close()
            self.values.close()
            self.database.close()

    def not_ready(self) -> str:
        """Why new traffic should go elsewhere; empty when it may come."""
        if self.draining:
            return "shutting down"
        if self.services.table is None:
            return "no routing state has been published: start `understudy controller`"
        if not any(upstream.ejected_until <= time.monotonic() for upstream in self._upstreams.values()):
            return "no engine can be reached"
        if time.monotonic() - self.watcher.refreshed > STALE_AFTER:
            return "the database has been away for too long"
        return ""

    async def accept_feedback(self, body: bytes, principal: Principal) -> None:
        """Check, store and count one feedback. Raises ApiError."""
        row = feedback.parse(body, principal, self.services.minter, time.time())
        labels = await self._assignments.resolve(row.assignment)
        if not self.services.events.feedback(row.as_row()):
            raise unavailable("Feedback cannot be stored now: try again shortly")
        if row.score < feedback.SATISFIED:
            self.services.events.hurry()
        if labels is not None:
            of = (labels.route, labels.version, labels.arm)
            self.services.recorder.feedback(*of, row.kind)
            self.services.recorder.satisfaction(*of, row.score)

    # -- what the watcher brings ----------------------------------------------------------------------------------

    def _install(self, snapshot: Snapshot) -> None:
        """Switch to a new routing state, whole."""
        try:
            self._adopt_endpoints(snapshot)
            self.services.recorder.engines(self._upstreams)
            self._breakers.adopt(snapshot.routes)
            table = self._compiler.compile(snapshot)
        except (ValueError, KeyError, TypeError) as error:
            logger.error("snapshot %d is unusable and is ignored: %s", snapshot.id, error)
            return
        self.services.table = table
        self._shadows.retain(table.mirrors())
        for target in table.targets():
            self._assignments.put(target.assignment, feedback.Labels(target.route, target.version, target.arm))
        self.services.recorder.retain({target.version for target in table.targets()}, time.monotonic())

    def _tripped(self, trip: Trip) -> None:
        """From the next request on stable serves the arm's units; the controller reads it among the events."""
        logger.error("route %s: stable takes over, by this worker alone: %s", trip.route, trip.reason)
        table = self.services.table
        if table is not None:
            self.services.table = self._compiler.compile(table.snapshot)

    def _screen(self, route: str) -> RouteScreen | None:
        return None if self._screening is None else self._screening.of(route)

    def _in_flight(self) -> int:
        return sum(upstream.in_flight for upstream in (*self._upstreams.values(), *self._retired))

    def _install_keys(self, keys: list[ApiKey]) -> None:
        self.services.authenticator = self._authenticator(keys)

    def _authenticator(self, keys: list[ApiKey]) -> Authenticator:
        return Authenticator(keys, self.settings.keys_required, is_loopback(self.settings.gateway.host))

    def _adopt_endpoints(self, snapshot: Snapshot) -> None:
        """Keep the live state of engines that stay; drop those that left once their last request is done."""
        wanted = {endpoint.name: endpoint.url for endpoint in snapshot.endpoints}
        known, key = self._upstreams, self.settings.engine.api_key
        stays = {name for name, upstream in known.items() if wanted.get(name) == upstream.url}
        made = {n: Upstream(n, url, key, self._timeouts) for n, url in wanted.items() if n not in stays}  # may raise
        self._retired += [known.pop(name) for name in known.keys() - stays]
        known.update(made)

    async def _sweep(self) -> None:
        """Deadlines, pools, the snapshot's age."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP)
            for upstream in (*self._upstreams.values(), *self._retired):
                upstream.sweep(loop.time())
            if self._screening is not None:
                self._screening.sweep(loop.time())
            self._shadows.shed()
            for upstream in [u for u in self._retired if u.in_flight == 0]:
                upstream.close()
                self._retired.remove(upstream)
            self.services.recorder.snapshot_age(time.monotonic() - self.watcher.refreshed)


def _close(grading: Grading | None, events: EventWriter) -> None:
    """What is under way is graded and written, in this order. Blocks."""
    if grading is not None:
        grading.close(GRADING)
    events.close(FLUSH)


def _grading(settings: Settings, recorder: Recorder) -> Grading | None:
    """The client of the scoring service, where one is configured. Raises ConfigError for a bad URL."""
    rewards = settings.rewards
    if not rewards.scoring_url:
        return None
    from monitors.rewards.http_client import Client  # httpx: only for those who need it

    client = Client("production", rewards.scoring_url, timeout=SCORING, key=rewards.api_key)
    return Grading(client, recorder.events_dropped)


def _prioritised(engine: EngineSettings) -> bool:
    """True when the engines are known to take a `priority`: ours do, unless somebody wants it otherwise."""
    return engine.managed and not any(argument.startswith("--scheduling") for argument in engine.extra_args)


def _timeouts(settings: GatewaySettings) -> Timeouts:
    return Timeouts(
        connect=parse_duration(settings.connect_timeout),
        first_byte=parse_duration(settings.first_byte_timeout),
        idle=parse_duration(settings.idle_timeout),
        total=parse_duration(settings.total_timeout),
    )
