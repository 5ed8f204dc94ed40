"""Whether a log is the one that was read before: neither Kafka's client nor a topic's name tell."""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaTimeoutError, OffsetOutOfRangeError

from consumer import metrics
from metering.events import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaConsumer, ConsumerRecord

    from metering.meter import Claim

# After a change of leader a broker may know of less than there is, for a moment.
ANCHOR_SECONDS_MAX = 10
ANCHOR_POLL_MS = 500
ANCHOR_ATTEMPTS = 3


def anchor_digest(record: ConsumerRecord[bytes, bytes]) -> bytes:
    """Digest what tells a record from any other that might come to stand at its offset."""
    key, value = record.key, record.value
    lengths = [-1 if part is None else len(part) for part in (key, value)]
    place = f"{record.offset},{record.timestamp},{lengths}".encode()
    digest = blake2b(place, digest_size=DIGEST_BYTES)
    digest.update(key or b"")
    digest.update(value or b"")
    return digest.digest()


async def why_another_log(
    consumer: AIOKafkaConsumer, claim: Claim, *, is_ours: Callable[[], bool]
) -> str | None:
    """Find out why the log is not the one that was read before; None if it is.

    Moves the client's place in the partition. Raises IllegalStateError if that is taken back.
    """
    tp = TopicPartition(*claim.partition)
    beginning = (await consumer.beginning_offsets([tp]))[tp]
    if beginning > claim.next_offset:
        return (
            f"records were removed before they were read:"
            f" the log begins at {beginning}, and {claim.next_offset} is next"
        )
    if claim.anchor is None or claim.anchor[0] < beginning:
        metrics.ANCHORS.labels("none" if claim.anchor is None else "gone").inc()
        return None

    offset, digest = claim.anchor
    why = None
    for _ in range(ANCHOR_ATTEMPTS):
        try:
            record = await _record_at(consumer, tp, offset, is_ours)
        except OffsetOutOfRangeError:
            why = f"offset {offset} was read and is out of range now"
            continue
        if record is None:
            why = f"offset {offset} was read, and now the log ends before it"
            break
        if record.offset != offset or anchor_digest(record) != digest:
            why = f"the record that was read at offset {offset} is another one now"
            continue
        metrics.ANCHORS.labels("matched").inc()
        return None
    metrics.ANCHORS.labels("broken").inc()
    return why


async def _record_at(
    consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int, is_ours: Callable[[], bool]
) -> ConsumerRecord[bytes, bytes] | None:
    """Read one record again; None if the log ends before it."""
    _expect(is_ours)
    consumer.seek(tp, offset)
    consumer.resume(tp)
    deadline = time.monotonic() + ANCHOR_SECONDS_MAX
    while True:
        found = await consumer.getmany(tp, timeout_ms=ANCHOR_POLL_MS, max_records=1)
        _expect(is_ours)
        if found:
            return found[tp][0]
        if time.monotonic() > deadline:
            # Some brokers answer a fetch behind the end with nothing, for ever.
            end = consumer.highwater(tp)
            if end is None or end > offset:
                raise KafkaTimeoutError(f"offset {offset} of {tp} did not come in time")
            return None


def _expect(is_ours: Callable[[], bool]) -> None:
    if not is_ours():
        raise IllegalStateError("the partition was taken back")
