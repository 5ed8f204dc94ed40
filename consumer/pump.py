"""Asks the client for records, and keeps as many at hand as the lanes can take."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, RecordTooLargeError

from consumer.partitions import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiokafka import AIOKafkaConsumer, ConsumerRecord

    from consumer.partitions import Held, Partitions
    from consumer.settings import Settings

# Decoded without a break. Heartbeats and the other lanes get their turn in between.
CHUNK_RECORDS_MAX = 1_000

# How long to wait for news, and how long where a lane that is full may be free again soon.
NEWS_MS, ROOM_MS = 200, 20

# How long to leave the client alone that could not fetch.
ERROR_SECONDS = 1

MEBIBYTE = 1 << 20

# What a record takes besides its value and headers.
RECORD_BYTES = 500

log = structlog.get_logger()


class Pump:
    """The one who asks. What it has fetched stands in the chunks of each partition."""

    def __init__(
        self, consumer: AIOKafkaConsumer, partitions: Partitions, *, settings: Settings
    ) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._records_max = settings.batch_records_max
        self._bytes_max = settings.batch_mebibytes_max * MEBIBYTE
        self._lanes = settings.lanes
        # Set when something has come for a lane.
        self.news = [asyncio.Event() for _ in range(settings.lanes)]
        self.asked_at = time.monotonic()  # For the watchdogs.

    def of_lane(self, lane: int) -> list[Held]:
        """Pick the partitions of a lane that may be read."""
        ready = self._partitions.ready
        return [held for held in ready if held.tp.partition % self._lanes == lane]

    async def run(self) -> None:
        """Fetch for ever."""
        while True:
            self.asked_at = time.monotonic()
            wanted = self._wanted()
            found = 0
            # One by one: asked for many, the client gives all it has of one before the next.
            for held in wanted:
                found += await self._fetch([held], timeout_ms=0)
            if wanted and not found:
                is_all = len(wanted) == len(self._partitions.ready)
                await self._fetch(wanted, timeout_ms=NEWS_MS if is_all else ROOM_MS)
            elif not wanted:
                # A member without partitions only takes part in the group while it asks.
                if self._partitions.has_joined and not self._partitions.held:
                    await self._ask()
                await asyncio.sleep(ROOM_MS / 1_000)

    def _wanted(self) -> list[Held]:
        """Pick the partitions to ask for: those whose lane has room."""
        wanted = []
        for lane in range(self._lanes):
            partitions = self.of_lane(lane)
            chunks = [chunk for held in partitions for chunk in held.chunks]
            has_room = (
                sum([len(chunk.records) for chunk in chunks]) < self._records_max
                and sum([chunk.bytes for chunk in chunks]) < self._bytes_max
            )
            for held in partitions:
                held.asked_since = (held.asked_since or time.monotonic()) if has_room else None
            if has_room:
                wanted += partitions
        return wanted

    async def _fetch(self, wanted: Sequence[Held], *, timeout_ms: int) -> int:
        """Put what has come into the chunks; returns how many chunks."""
        tps = [held.tp for held in wanted]
        self._partitions.asked.update(tps)
        try:
            found = await self._consumer.getmany(
                *tps, timeout_ms=timeout_ms, max_records=CHUNK_RECORDS_MAX
            )
        except KafkaError as error:
            await self._cannot_fetch(wanted, error)
            return 0
        finally:
            self._partitions.asked.difference_update(tps)

        chunks = 0
        for held in wanted:
            # During the question it may have been taken back, or given back to be claimed again.
            if not self._partitions.is_ready(held):
                continue
            position = await self._consumer.position(held.tp)
            if position > held.fetched_to:
                records = found.get(held.tp, [])
                held.chunks.append(Chunk(records, position, sum(map(_size_of, records))))
                held.fetched_to = position
                self.news[held.tp.partition % self._lanes].set()
                chunks += 1
        if chunks:
            await asyncio.sleep(0)
        return chunks

    async def _cannot_fetch(self, wanted: Iterable[Held], error: KafkaError) -> None:
        """Stop a partition of which something is missing. Other errors pass, or a watchdog sees."""
        for held in wanted:
            if isinstance(error, OffsetOutOfRangeError) and held.tp in error.args[0]:
                why = f"offset {held.fetched_to} is no longer in the log, or not yet"
                await self._partitions.halt(held, why)
                return
            # The client would step over the record.
            if isinstance(error, RecordTooLargeError) and held.tp in error.args:
                why = f"offset {held.fetched_to} is too large to fetch"
                await self._partitions.halt(held, why)
                return
        log.warning("cannot_fetch", reason=type(error).__name__)
        await asyncio.sleep(ERROR_SECONDS)

    async def _ask(self) -> None:
        try:
            await self._consumer.getmany(timeout_ms=NEWS_MS)
        except KafkaError as error:
            await self._cannot_fetch((), error)


def _size_of(record: ConsumerRecord[bytes, bytes]) -> int:
    """Say what a record weighs in memory, roughly."""
    headers = sum([len(value or b"") for _, value in record.headers]) if record.headers else 0
    return RECORD_BYTES + len(record.value or b"") + headers
