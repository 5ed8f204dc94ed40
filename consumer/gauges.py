"""Keeps the gauges that come from the database: what waits, what is overdue, who has used up what.

The first kind is asked for by every member. All channels are looked at by one member at a time, a
slice after the other, and what it saw is shared: the gauges are the same on every member, and the
database does not work harder where more members are.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from typing import TYPE_CHECKING, Any

import structlog
from asyncpg.exceptions import PostgresError
from sqlalchemy.exc import DBAPIError

from consumer import metrics
from consumer.partitions import backoff_seconds
from consumer.wall_clock import now_instant
from metering.catalog import PLANS, PRODUCTS
from metering.errors import Unavailable
from metering.periods import ONE_DAY, SECOND, day_of, first_instant
from metering.storage import observation_store
from metering.storage.database import transaction
from metering.storage.observation_store import PlanLimit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from consumer.settings import Settings
    from metering.catalog import Catalog
    from metering.storage.observation_store import Pulse, Standing

# A slice takes about a tenth of a second.
CHANNELS_MAX = 1_000

# The database works for this at most a tenth of the time, however many channels there are.
REST_FACTOR = 9

# From so many days before its last one a lot is shown that is not renewed.
ENDING_DAYS = 30

log = structlog.get_logger()


@dataclass(slots=True)
class Tour:
    """What was seen so far of one look at all channels."""

    worst_max: int
    after: str = ""  # The channel that was looked at last.
    exhausted: Counter[tuple[str, str]] = field(default_factory=Counter)
    worst: dict[str, list[tuple[float, str, str]]] = field(default_factory=dict)
    ending: Counter[str] = field(default_factory=Counter)
    ends: list[tuple[float, str, str]] = field(default_factory=list)

    def take(self, standings: Sequence[Standing], zones: Mapping[str, str]) -> None:
        """Add some channels."""
        seen: dict[str, list[tuple[float, str, str]]] = {}
        for standing in standings:
            for what, ratio in _ratios(standing):
                self.exhausted[standing.product, what] += ratio >= 1
                seen.setdefault(what, []).append((ratio, standing.channel, standing.product))
            if standing.ends_on is not None:
                self.ending[standing.product] += standing.ending
                end = first_instant(standing.ends_on + ONE_DAY, zones[standing.channel]) / SECOND
                self.ends.append((end, standing.channel, standing.product))
        for what, found in seen.items():
            self.worst[what] = nlargest(self.worst_max, self.worst.get(what, []) + found)
        self.ends = nsmallest(self.worst_max, self.ends)

    def document(self) -> dict[str, Any]:
        """Write down what was seen, for all members."""
        return {
            "exhausted": [[*key, channels] for key, channels in self.exhausted.items()],
            "worst": [
                [channel, product, what, ratio]
                for what, found in self.worst.items()
                for ratio, channel, product in found
            ],
            "ending": dict(self.ending),
            "ends": [[channel, product, end] for end, channel, product in self.ends],
        }


def _ratios(standing: Standing) -> Iterator[tuple[str, float]]:
    if standing.quota is not None:
        yield "quota", standing.quota
        # A window gives at most twice what it brings.
        yield "maximum", standing.quota / 2
    if standing.lot is not None:
        yield "lot", standing.lot
    if standing.limit is not None:
        yield "limit", standing.limit


class Gauges:
    """Looks again and again, and never stops the metering: what it cannot see grows old."""

    def __init__(
        self, engine: AsyncEngine, catalog: Catalog, *, settings: Settings, observer: str
    ) -> None:
        self._engine = engine
        self._horizon = catalog.rules.horizon
        self._limits = [
            PlanLimit(plan, product, limit)
            for plan in PLANS
            for product in PRODUCTS
            if (limit := catalog.allowance(plan, product).limit) is not None
        ]
        self._group = settings.group
        self._observer = observer
        self._worst_max = settings.usage_ratio_channels_max
        self._pause_seconds = settings.gauge_seconds
        self._tour: Tour | None = None
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Look until `stop` is called."""
        failures, next_look = 0, time.monotonic()
        while not self._stopped.is_set():
            since = time.monotonic()
            try:
                if since >= next_look:
                    await self.look()
                    next_look = since + self._pause_seconds
                if self._tour is not None:
                    await self._go_on(self._tour)
            except (Unavailable, DBAPIError, PostgresError) as error:
                failures += 1
                self._tour = None
                log.warning(
                    "not_looked", reason=metrics.count_database_error(error), failures=failures
                )
                await self._rest(backoff_seconds(failures))
                continue
            failures = 0
            seconds = time.monotonic() - since
            rest = next_look - time.monotonic() if self._tour is None else 0
            await self._rest(min(self._pause_seconds, max(rest, REST_FACTOR * seconds)))

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    async def look(self) -> None:
        """Ask for what is known at once, show it, and begin a tour if it is time for one."""
        async with transaction(self._engine) as connection:
            pulse = await observation_store.feel_pulse(connection, group=self._group)
            verified = await observation_store.last_verifications(connection)
            seen_at, document = await observation_store.read(connection)
            if self._tour is None and await observation_store.take_turn(
                connection, observer=self._observer, pause_seconds=self._pause_seconds
            ):
                self._tour = Tour(self._worst_max)
        metrics.PARKED.set(pulse.parked)
        metrics.DUE_OVERDUE.set(_overdue_seconds(pulse, self._horizon, now=now_instant()))
        if pulse.read_up_to is not None:
            metrics.READ_UP_TO.set(pulse.read_up_to / SECOND)
        for is_full, (is_ok, verified_at) in verified.items():
            scope = metrics.SCOPES[is_full]
            metrics.VERIFIED.labels(scope).set(verified_at.timestamp())
            metrics.VERIFIED_OK.labels(scope).set(is_ok)
        if seen_at is not None:
            metrics.OBSERVED.set(seen_at.timestamp())
            show(document)

    async def _go_on(self, tour: Tour) -> None:
        """Look at the next channels."""
        async with transaction(self._engine) as connection:
            if not await observation_store.keep_turn(connection, observer=self._observer):
                self._tour = None
            elif not await self._take_slice(connection, tour):
                await observation_store.write(connection, tour.document())
                self._tour = None

    async def _take_slice(self, connection: AsyncConnection, tour: Tour) -> bool:
        zones = dict(
            await observation_store.channels_after(
                connection, tour.after, channels_max=CHANNELS_MAX
            )
        )
        if not zones:
            return False
        now = now_instant()
        days = [(name, day_of(now, zone)) for name, zone in zones.items()]
        tour.take(
            await observation_store.standings(
                connection, days, self._limits, ending_days=ENDING_DAYS
            ),
            zones,
        )
        tour.after = days[-1][0]
        return True

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()


def show(document: Mapping[str, Any]) -> None:
    """Show what was seen of all channels, by whomever."""
    exhausted = {(product, what): channels for product, what, channels in document["exhausted"]}
    for product in PRODUCTS.values():
        if product.is_metered:
            for what in metrics.exhaustible(product):
                channels = exhausted.get((product.name, what), 0)
                metrics.CHANNELS_EXHAUSTED.labels(product.name, what).set(channels)
        metrics.LOTS_EXPIRING.labels(product.name).set(document["ending"].get(product.name, 0))
    metrics.USAGE_RATIO.replace(
        {(channel, product, what): ratio for channel, product, what, ratio in document["worst"]}
    )
    metrics.LOT_ENDS.replace(
        {(channel, product): end for channel, product, end in document["ends"]}
    )


def _overdue_seconds(pulse: Pulse, horizon: int, *, now: int) -> float:
    """Say since when something should have happened: what is due, a closing, the end of a wait."""
    instants = [pulse.due_at, None if pulse.parked_at is None else pulse.parked_at + horizon]
    overdue = [now - instant for instant in instants if instant is not None]
    if pulse.closes_at is not None and pulse.read_up_to is not None:
        # A cycle is held open on purpose until every partition has been read beyond its closing.
        overdue.append(min(now, pulse.read_up_to) - pulse.closes_at)
    return max(0, *overdue, 0) / SECOND
