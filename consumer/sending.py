"""Publish messages of our own: scenario files, commands, the traffic of the demo."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from consumer.brokers import kafka_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from consumer.settings import Settings
    from consumer.simulate import Line

# Messages that are on their way at a time.
UNDERWAY_MAX = 5_000

STOP_SECONDS_MAX = 5


class Outgoing(NamedTuple):
    """A message for a topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def message_of(settings: Settings, line: Line) -> Outgoing:
    """Make a message of a line of a scenario file; its key is the channel, where it says one."""
    try:
        subject = orjson.loads(line.value).get("subject")
    except (ValueError, AttributeError):
        subject = None
    key = subject.encode() if isinstance(subject, str) else None
    topic = settings.commands_topic if line.topic == "billing.commands" else line.topic
    return Outgoing(topic, key, line.value)


@contextlib.asynccontextmanager
async def producing(settings: Settings, **options: Any) -> AsyncIterator[AIOKafkaProducer]:  # noqa: ANN401
    """Yield a producer that waits until every replica in sync has a message."""
    producer = AIOKafkaProducer(
        **kafka_options(settings), acks="all", **{"max_request_size": 2**20, **options}
    )
    try:
        await producer.start()
        yield producer
    finally:
        # It waits for what it cannot send.
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await producer.stop()


async def publish(settings: Settings, messages: Sequence[Outgoing]) -> list[tuple[int, int]]:
    """Send a few messages in their order; returns the partition and offset of each."""
    async with producing(settings) as producer:
        answers = [
            await producer.send(message.topic, message.value, key=message.key)
            for message in messages
        ]
        return [(stored.partition, stored.offset) for stored in await asyncio.gather(*answers)]


async def send(
    settings: Settings,
    messages: Iterable[Outgoing],
    *,
    progress: Callable[[int], None] | None = None,
    per_second: int | None = None,
) -> int:
    """Send messages, as fast as it goes or so many a second, and wait until the broker has them
    all; returns how many there were.
    """
    count, since = 0, time.monotonic()
    async with producing(settings, linger_ms=20, max_batch_size=2**18) as producer:
        underway: list[asyncio.Future[Any]] = []
        for message in messages:
            underway.append(
                await producer.send(
                    message.topic, message.value, key=message.key, headers=list(message.headers)
                )
            )
            count += 1
            if per_second is not None:
                await asyncio.sleep(max(0, since + count / per_second - time.monotonic()))
            if len(underway) >= UNDERWAY_MAX:
                await asyncio.gather(*underway)
                underway.clear()
                if progress is not None:
                    progress(count)
        await asyncio.gather(*underway)
    return count
