"""Lets happen what nobody asks for: windows, renewals, expiry and closing, by the clock."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import structlog

from consumer import metrics
from consumer.partitions import backoff_seconds
from consumer.wall_clock import now_instant
from metering.errors import Unavailable

if TYPE_CHECKING:
    from metering.meter import Receipt

# How often to look where nothing was due.
LOOK_SECONDS = 1

# After a chunk the stream gets at least as much time as the chunk took.
REST_SECONDS_MIN = 0.05

log = structlog.get_logger()


class Settler(Protocol):
    """What is needed of the books here; tests pass a simpler one."""

    async def settle_due(self, *, now: int) -> tuple[Receipt, int]:
        """Settle some channels that are due."""


class Clock:
    """Settles what is due, a chunk at a time. Every member may: each takes other channels."""

    def __init__(self, meter: Settler) -> None:
        self._meter = meter
        self._stopped = asyncio.Event()
        self.chunk_since: float | None = None  # For the watchdogs.

    async def run(self) -> None:
        """Settle until `stop` is called."""
        failures = 0
        while not self._stopped.is_set():
            self.chunk_since = since = time.monotonic()
            try:
                receipt, settled = await self._meter.settle_due(now=now_instant())
            except Unavailable as error:
                failures += 1
                reason = metrics.count_database_error(error)
                metrics.DATABASE_RETRIES.labels(reason).inc()
                log.warning("nothing_settled", reason=reason, failures=failures)
                await self._rest(backoff_seconds(failures))
                continue
            failures = 0
            metrics.count(receipt)
            seconds = time.monotonic() - since
            if settled:
                log.debug("settled", channels=settled, seconds=round(seconds, 3))
            await self._rest(max(REST_SECONDS_MIN, seconds) if settled else LOOK_SECONDS)

    def stop(self) -> None:
        """Begin no other chunk."""
        self._stopped.set()

    async def _rest(self, seconds: float) -> None:
        self.chunk_since = None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
