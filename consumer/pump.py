"""Asks the client for records, and keeps as many at hand as the lanes can take."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    KafkaError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
)

from consumer.partitions import Chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import AIOKafkaConsumer, ConsumerRecord

    from consumer.partitions import Held, Partitions
    from consumer.settings import Settings

# Decoded without a break. Heartbeats and the other lanes get their turn in between.
CHUNK_RECORDS_MAX = 1_000

# How long to wait for news, and how long where a lane that is full may be free again soon.
NEWS_MS, ROOM_MS = 200, 20

# How long to leave a partition alone that could not be fetched, and how often to try until it is
# no accident of the way.
ERROR_SECONDS = 1
UNPACK_FAILURES_MAX = 5
ONE_BY_ONE_SECONDS = 5

MEBIBYTE = 1 << 20

# What a record takes besides its value and headers.
RECORD_BYTES = 500

NOBODYS = TopicPartition("", 0)

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
        self._one_by_one_until = 0.0
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
            if found:
                continue
            if not wanted or time.monotonic() < self._one_by_one_until:
                # A member without partitions only takes part in the group while it asks.
                await self._fetch((), timeout_ms=0)
                await asyncio.sleep(ROOM_MS / 1_000)
            else:
                is_all = len(wanted) == len(self._partitions.ready)
                await self._fetch(wanted, timeout_ms=NEWS_MS if is_all else ROOM_MS)

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
            now = time.monotonic()
            for held in partitions:
                held.asked_since = (held.asked_since or now) if has_room else None
            if has_room:
                wanted += [held for held in partitions if held.ask_at <= now]
        return wanted

    async def _fetch(self, wanted: Sequence[Held], *, timeout_ms: int) -> int:
        """Put what has come into the chunks; returns how many chunks."""
        # To the client no partition means all, also those that are being loaded: what it gave of
        # them would be lost.
        tps = [held.tp for held in wanted] or [NOBODYS]
        self._partitions.asked.update(tps)
        try:
            found = await self._consumer.getmany(
                *tps, timeout_ms=timeout_ms, max_records=CHUNK_RECORDS_MAX
            )
        except ConsumerStoppedError:
            raise
        except Exception as error:  # noqa: BLE001  # What cannot be unpacked raises anything.
            await self._cannot_fetch(wanted, error)
            return 0
        finally:
            self._partitions.asked.difference_update(tps)

        chunks = 0
        for held in wanted:
            # During the question it may have been taken back, or given back to be claimed again.
            if not self._partitions.is_ready(held):
                continue
            held.failures = 0
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

    async def _cannot_fetch(self, wanted: Sequence[Held], error: Exception) -> None:
        """Go back to where we are, and halt the partition if it will never be better."""
        for held in wanted:
            # Of partitions that were asked together the client forgets what it had in hand.
            if self._partitions.is_ready(held):
                self._consumer.seek(held.tp, held.fetched_to)
        log.warning("cannot_fetch", reason=type(error).__name__, partitions=len(wanted))
        if len(wanted) != 1:
            # Then it will show which one it is.
            self._one_by_one_until = time.monotonic() + ONE_BY_ONE_SECONDS
            return

        [held] = wanted
        held.failures += 1
        held.ask_at = time.monotonic() + ERROR_SECONDS
        why = None
        if isinstance(error, OffsetOutOfRangeError):
            why = "is no longer in the log, or not yet"
        elif isinstance(error, RecordTooLargeError):
            # The client would step over it.
            why = "is too large to fetch"
        elif held.failures >= UNPACK_FAILURES_MAX and _is_about_records(error):
            why = f"cannot be unpacked: {type(error).__name__}"
        if why is not None:
            await self._partitions.halt(held, f"offset {held.fetched_to} {why}")


def _is_about_records(error: Exception) -> bool:
    """Say whether the client got records and cannot make sense of them."""
    return isinstance(error, CorruptRecordException) or not isinstance(error, KafkaError)


def _size_of(record: ConsumerRecord[bytes, bytes]) -> int:
    """Say what a record weighs in memory, roughly."""
    headers = sum([len(value or b"") for _, value in record.headers]) if record.headers else 0
    return RECORD_BYTES + len(record.value or b"") + headers
