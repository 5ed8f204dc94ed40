"""How far this member is, told in the background: to Kafka's tools, and to the books to close."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog
from aiokafka.errors import KafkaError

from consumer import metrics
from metering.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import AIOKafkaConsumer

    from consumer.partitions import Held, Partitions
    from consumer.settings import Settings
    from metering.meter import Claim

# What a fetch did not show may have come while its answer was on the way.
ANSWER_MICROSECONDS = 1_000_000

KAFKA_COMMIT_SECONDS_MAX = 5

log = structlog.get_logger()


class Marker(Protocol):
    """What is needed of the books here; tests pass a simpler one."""

    async def mark_read(self, claims: Sequence[Claim], *, read_up_to: int) -> None:
        """Note that nothing more came on partitions that are read to their end."""


class Progress:
    """Knows what is read to its end, and tells who wants to know."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        partitions: Partitions,
        meter: Marker,
        *,
        settings: Settings,
    ) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._meter = meter
        self._kafka_seconds = settings.kafka_commit_seconds
        self._books_seconds = settings.idle_mark_seconds
        self._committed: dict[Held, int] = {}

    def read_to_the_end(self, held: Held, offset: int) -> int:
        """Say up to when nothing else had come, if the offset is the end of the log; else 0."""
        end = self._consumer.highwater(held.tp)
        asked_ms = self._consumer.last_poll_timestamp(held.tp)
        if end is None or asked_ms is None or offset < end:
            return 0
        return int(asked_ms) * 1_000 - ANSWER_MICROSECONDS

    async def keep_telling_kafka(self) -> None:
        """Tell Kafka every few seconds."""
        while True:
            await asyncio.sleep(self._kafka_seconds)
            await self.tell_kafka()

    async def tell_kafka(self) -> None:
        """Tell Kafka how far the books are. Only tools that show lag look at it."""
        offsets = {held: held.next_offset for held in self._partitions.ready}
        news = {held.tp: to for held, to in offsets.items() if self._committed.get(held) != to}
        if not news:
            return
        try:
            # The client would try for ever.
            async with asyncio.timeout(KAFKA_COMMIT_SECONDS_MAX):
                await self._consumer.commit(news)
            self._committed = offsets
        except (KafkaError, TimeoutError) as error:
            log.debug("not_committed_to_kafka", reason=type(error).__name__)

    async def keep_telling_the_books(self) -> None:
        """Say of partitions on which nothing comes that they are read to their end."""
        while True:
            await asyncio.sleep(self._books_seconds)
            marks = {
                held.claim: self.read_to_the_end(held, held.next_offset)
                for held in self._partitions.ready
                if held.claim is not None and not held.is_busy and not held.chunks
            }
            claims = [claim for claim, read_up_to in marks.items() if read_up_to]
            try:
                if claims:
                    read_up_to = min(marks[claim] for claim in claims)
                    await self._meter.mark_read(claims, read_up_to=read_up_to)
            except Unavailable as error:
                metrics.count_database_error(error)
