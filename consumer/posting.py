"""Sends messages of the outbox to a topic: many in one batch, and cuts down what is too large."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import AIOKafkaProducer

    from metering.storage.outbox_store import OutboxMessage

# What goes to a partition at once. Message by message, the client took four times as much of a
# member's time.
BATCH_BYTES_MAX = 256 << 10

# Larger than any sensible message: what a topic takes is for its own setting to say.
REQUEST_BYTES_MAX = 16 << 20

DETAIL_HEADER = "lotmeter-detail"
OWN_HEADER = "lotmeter-"  # Begins all of ours, also those of dead letters that are sent again.
CUT_OUT = "was too large for this topic: cut out"

# What became of messages, by their numbers: sent, cut, or why one was not sent.
Results = dict[int, str | BaseException]

_choose = DefaultPartitioner()


async def post(
    producer: AIOKafkaProducer, topic: str, messages: Sequence[OutboxMessage], results: Results
) -> None:
    """Send messages to a topic, those for one partition in their order. Says of each what became of
    it as soon as that is known.
    """
    partitions = sorted(await producer.partitions_for(topic))
    # Most keys come more than once, and to choose is most of the work.
    choose = cache(partial(_choose, all_partitions=partitions, available=partitions))
    by_partition: dict[int, deque[OutboxMessage]] = defaultdict(deque)
    for message in messages:
        by_partition[choose(message.key)].append(message)
    await asyncio.gather(
        *[
            _post_in_order(_Address(producer, topic, partition), own, results)
            for partition, own in by_partition.items()
        ]
    )


class _Address(NamedTuple):
    """Where messages go, and who brings them there."""

    producer: AIOKafkaProducer
    topic: str
    partition: int


async def _post_in_order(
    address: _Address, waiting: deque[OutboxMessage], results: Results
) -> None:
    while waiting:
        batch: list[OutboxMessage] = []
        error = await _deliver(address, waiting, batch)
        if isinstance(error, MessageSizeTooLargeError):
            # Nobody says which of them.
            for message in batch:
                results[message.number] = await _post_alone(address, message)
        else:
            results.update((message.number, error or "sent") for message in batch)


async def _post_alone(address: _Address, message: OutboxMessage) -> str | BaseException:
    """Send a message; of one that is too large, what says why it is here."""
    error = await _deliver(address, deque([message]), [])
    for cut in (_without_value, _without_original):
        if not isinstance(error, MessageSizeTooLargeError):
            break
        error = await _deliver(address, deque([cut(message)]), [])
        if error is None:
            return "cut"
    return error or "sent"


async def _deliver(
    address: _Address, waiting: deque[OutboxMessage], batch: list[OutboxMessage]
) -> BaseException | None:
    """Send as many of what waits as one batch takes, at least one, which then stand in `batch`;
    returns why that failed.
    """
    producer, topic, partition = address
    builder = producer.create_batch()
    while waiting:
        message = waiting[0]
        headers = list(message.headers)
        packed = builder.append(
            timestamp=None, key=message.key, value=message.value, headers=headers
        )
        if packed is None:
            break
        batch.append(waiting.popleft())
    if builder.size() > REQUEST_BYTES_MAX:
        return MessageSizeTooLargeError()
    try:
        await (await producer.send_batch(builder, topic, partition=partition))
    except Exception as error:  # noqa: BLE001  # Whatever it is, the messages stay in the outbox.
        return error
    return None


def _without_value(message: OutboxMessage) -> OutboxMessage:
    cut = f"the value of {len(message.value or b'')} bytes {CUT_OUT}"
    details = [value for name, value in message.headers if name == DETAIL_HEADER and value]
    detail = b"; ".join([*details, cut.encode()])
    others = tuple(header for header in message.headers if header[0] != DETAIL_HEADER)
    return message._replace(value=None, headers=(*others, (DETAIL_HEADER, detail)))


def _without_original(message: OutboxMessage) -> OutboxMessage:
    cut = _without_value(message)
    own = tuple(header for header in cut.headers if header[0].startswith(OWN_HEADER))
    return cut._replace(key=None, headers=own)
