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
from metering.errors import Unavailable, let_go
from metering.meter import DUE_CHANNELS_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metering.meter import Receipt

# How often to look where nothing was due.
LOOK_SECONDS = 1

# After a chunk the stream gets at least as much time as the chunk took, and more where it is slow:
# as much again for so many seconds that its batches have run for, up to a limit, so that a stream
# that is slow for another reason does not hold everything else up.
REST_SECONDS_MIN = 0.05
BATCH_SECONDS = 0.25
RESTS_MAX = 3

# Channels of a chunk are locked until it ends, so it is as large as this machine, with all that it
# does besides, settles in so long.
CHUNK_SECONDS = 0.5
CHANNELS_MIN = 10

log = structlog.get_logger()


class Settler(Protocol):
    """What is needed of the books here; tests pass a simpler one."""

    async def settle_due(self, *, now: int, channels_max: int) -> tuple[Receipt, int]:
        """Settle some channels that are due; returns how many there were."""


class Clock:
    """Settles what is due, a chunk at a time. Every member may: each takes other channels."""

    def __init__(self, meter: Settler, batch_since: Mapping[int, float] | None = None) -> None:
        self._meter = meter
        # When the batches that run were begun: how the stream fares.
        self._batch_since = {} if batch_since is None else batch_since
        self._stopped = asyncio.Event()
        self._channels_max = DUE_CHANNELS_MAX
        self.chunk_since: float | None = None  # For the watchdogs.

    async def run(self) -> None:
        """Settle until `stop` is called."""
        failures = 0
        while not self._stopped.is_set():
            self.chunk_since = since = time.monotonic()
            try:
                receipt, settled = await self._meter.settle_due(
                    now=now_instant(), channels_max=self._channels_max
                )
            except Unavailable as error:
                let_go(error)
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
                in_time = round(settled * CHUNK_SECONDS / max(seconds, 0.001))
                self._channels_max = max(CHANNELS_MIN, min(in_time, DUE_CHANNELS_MAX))
            await self._rest(self._pause_after(seconds) if settled else LOOK_SECONDS)

    def stop(self) -> None:
        """Begin no other chunk."""
        self._stopped.set()

    def _pause_after(self, seconds: float) -> float:
        now = time.monotonic()
        running = max((now - since for since in self._batch_since.values()), default=0)
        return max(REST_SECONDS_MIN, seconds * min(1 + running / BATCH_SECONDS, RESTS_MAX))

    async def _rest(self, seconds: float) -> None:
        self.chunk_since = None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
