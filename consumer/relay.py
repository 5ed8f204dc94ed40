"""Sends what the books have to say to others: from the outbox to topics, at least once.

A message leaves the outbox only after Kafka has it. A topic that is dead makes the outbox grow and
an alert go off; it never stops metering, nor what is for other topics.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from consumer import metrics, posting
from consumer.brokers import kafka_options
from consumer.partitions import backoff_seconds
from metering.errors import Unavailable, let_go
from metering.storage import outbox_store
from metering.storage.database import transaction
from metering.storage.tables import outbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from consumer.settings import Settings
    from metering.storage.outbox_store import OutboxMessage

# How often to look whether there is something.
LOOK_SECONDS = 0.5

# How often to count what waits.
SHOW_SECONDS = 5

# The rows stay locked until Kafka has answered; the database ends idle transactions after 15 s.
SEND_SECONDS_MAX = 10

STOP_SECONDS_MAX = 5

log = structlog.get_logger()


class NotSent(Exception):
    """Some messages stay in the outbox for now; names what was wrong with the first."""


class Relay:
    """Empties the outbox. Every member may: each takes other messages."""

    def __init__(self, engine: AsyncEngine, *, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._topics = {
            "notices": settings.notices_topic,
            "statements": settings.statements_topic,
            "dead_letters": settings.dead_letters_topic,
        }
        # Failures in a row, and when to try again, of topics that take nothing.
        self._failures: Counter[str] = Counter()
        self._try_at: dict[str, float] = {}
        self._show_at = 0.0
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Send until `stop` is called and nothing is left that can be sent."""
        failures = 0
        while True:
            try:
                await self._show()
                async with self._producer() as producer:
                    while True:
                        sent = await self._send_some(producer)
                        failures = 0
                        if not sent and self._stopped.is_set():
                            return
                        if sent < self._settings.relay_messages_max:
                            # Sent one by one as they come they take a twentieth of a member's time.
                            await self._rest(LOOK_SECONDS)
                        await self._show()
            except Unavailable as error:
                let_go(error)
                reason = metrics.count_database_error(error)
                metrics.DATABASE_RETRIES.labels(reason).inc()
            except NotSent as error:
                log.warning("outbox_not_sent", reason=str(error), failures=dict(self._failures))
                if self._stopped.is_set():
                    # The next member sends it.
                    return
                continue
            except (KafkaError, OSError, TimeoutError) as error:
                reason = type(error).__name__
            failures += 1
            log.warning("outbox_not_sent", reason=reason, failures=failures)
            if self._stopped.is_set():
                return
            await self._rest(backoff_seconds(failures))

    def stop(self) -> None:
        """Send what there is and come to an end."""
        self._stopped.set()

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        # A new one after each failure: nothing that was not answered is left in its buffers.
        producer = AIOKafkaProducer(
            **kafka_options(self._settings),
            acks="all",
            max_batch_size=posting.BATCH_BYTES_MAX,
            max_request_size=posting.REQUEST_BYTES_MAX,
        )
        try:
            await producer.start()
            yield producer
        finally:
            # It waits for what it cannot send.
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await producer.stop()

    async def _send_some(self, producer: AIOKafkaProducer) -> int:
        """Send the oldest messages and remove those that Kafka has; returns how many they were."""
        now = time.monotonic()
        wanted = [name for name in self._topics if self._try_at.get(name, 0) <= now]
        async with transaction(self._engine) as connection:
            messages = await outbox_store.take(
                connection, wanted, messages_max=self._settings.relay_messages_max
            )
            results = await self._send(producer, messages)
            sent = [number for number, result in results.items() if isinstance(result, str)]
            await outbox_store.remove(connection, sent)
        failed: dict[str, BaseException] = {}
        for message in messages:
            result = results[message.number]
            label = result if isinstance(result, str) else "failed"
            metrics.RELAYED.labels(message.destination, label).inc()
            if not isinstance(result, str):
                failed.setdefault(message.destination, result)
        self._note(failed, wanted)
        if failed:
            raise NotSent(", ".join({type(error).__name__ for error in failed.values()}))
        return len(sent)

    def _note(self, failed: Collection[str], wanted: Sequence[str]) -> None:
        """Leave topics alone for a while that took nothing."""
        for name in wanted:
            if name in failed:
                self._failures[name] += 1
                self._try_at[name] = time.monotonic() + backoff_seconds(self._failures[name])
            else:
                del self._failures[name]

    async def _send(
        self, producer: AIOKafkaProducer, messages: Sequence[OutboxMessage]
    ) -> posting.Results:
        """Send messages to all topics at the same time; returns what became of each."""
        results: posting.Results = {}
        for_topics: dict[str, list[OutboxMessage]] = {}
        for message in messages:
            for_topics.setdefault(self._topics[message.destination], []).append(message)
        tasks = [
            asyncio.create_task(posting.post(producer, topic, own, results))
            for topic, own in for_topics.items()
        ]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SEND_SECONDS_MAX)
            for task in late:
                task.cancel()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        for own, error in zip(for_topics.values(), errors, strict=True):
            if error is not None:
                for message in own:
                    results.setdefault(message.number, error)
        return results

    async def _show(self) -> None:
        """Tell how much waits, and how long. Counting reads all of it, so it is done rarely."""
        if time.monotonic() < self._show_at:
            return
        self._show_at = time.monotonic() + SHOW_SECONDS
        async with transaction(self._engine) as connection:
            metrics.OUTBOX_AGE.set(await outbox_store.oldest_age_seconds(connection))
            rows = await connection.execute(
                sa.select(outbox.c.destination, sa.func.count()).group_by(outbox.c.destination)
            )
            waiting = {row[0]: int(row[1]) for row in rows}
        for destination in self._topics:
            metrics.OUTBOX_BACKLOG.labels(destination).set(waiting.get(destination, 0))
