"""Lets go of the records of old months. The ledger, closed cycles and commands stay for ever."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from consumer import metrics
from consumer.wall_clock import now_instant
from metering.errors import Unavailable

# Whether a month has become old shows soon enough.
LOOK_SECONDS = 3_600

log = structlog.get_logger()


class Keeper(Protocol):
    """What is needed of the books here; tests pass a simpler one."""

    async def drop_old_records(self, *, now: int, kept_months: int) -> int:
        """Let go of records that are older than a number of months; returns how many months."""


class Retention:
    """Looks every hour. Every member may: what one has dropped the others do not find."""

    def __init__(self, meter: Keeper, *, kept_months: int) -> None:
        self._meter = meter
        self._kept_months = kept_months

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                dropped = await self._meter.drop_old_records(
                    now=now_instant(), kept_months=self._kept_months
                )
                if dropped:
                    log.info("old_records_dropped", months=dropped)
            except Unavailable as error:
                # In an hour it is as good.
                log.warning("old_records_kept", reason=metrics.count_database_error(error))
            await asyncio.sleep(LOOK_SECONDS)
