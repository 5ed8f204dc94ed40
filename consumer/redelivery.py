"""Dead letters on their topic: read back as the records they were, and sent through again.

What the dead-letter topic adds to a record are five headers at the end. Without them it is the
record that was rejected: key, value, headers, and so its identity.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from consumer.brokers import kafka_options
from consumer.posting import CUT_OUT, OWN_HEADER, REQUEST_BYTES_MAX
from consumer.sending import producing
from consumer.terminal import Stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from aiokafka import AIOKafkaProducer
    from aiokafka.structs import ConsumerRecord

    from consumer.settings import Settings
    from metering.intake import Headers
    from metering.storage.reject_store import Choice

ADDED = ("reason", "detail", "topic", "partition", "offset")

# Copies are told apart by a digest each: so many fit into memory.
LETTERS_MAX = 1_000_000

FETCH_MS, FETCH_RECORDS_MAX = 500, 500
# A broker that says nothing for so long is given up.
SILENCE_SECONDS = 30
UNDERWAY_MAX = 500


class Letter(NamedTuple):
    """A record that was rejected, as it was, and what is known of its rejection."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    at: tuple[int, int]  # Partition and offset on the dead-letter topic.

    @property
    def is_cut(self) -> bool:
        """Say whether its value was too large for the dead-letter topic."""
        return self.value is None and self.detail.endswith(CUT_OUT)

    @property
    def found_at(self) -> tuple[str, str, int, int]:
        """What it is chosen by."""
        return (self.reason, self.topic, self.partition, self.offset)

    @property
    def digest(self) -> bytes:
        """Digest what makes it this record, wherever and how often it was rejected."""
        parts = (self.topic, self.key, self.value, self.headers)
        return blake2b(repr(parts).encode(), digest_size=16).digest()


def letter_of(record: ConsumerRecord[bytes, bytes]) -> Letter | None:
    """Read a dead letter; None if it is none of ours."""
    own = dict(record.headers[-len(ADDED) :])
    if set(own) != {OWN_HEADER + name for name in ADDED}:
        return None
    try:
        reason, detail, topic, partition, offset = (
            (own[OWN_HEADER + name] or b"").decode() for name in ADDED
        )
        return Letter(
            topic,
            int(partition),
            int(offset),
            reason,
            detail,
            record.key,
            record.value,
            tuple(record.headers[: -len(ADDED)]),
            (record.partition, record.offset),
        )
    except ValueError:
        return None


class LetterBox:
    """The dead-letter topic, from its beginning to where it ended when it was opened."""

    def __init__(self, reader: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        self._reader = reader
        self._partitions = partitions
        self._ends: dict[TopicPartition, int] = {}

    async def letters(self) -> AsyncIterator[Letter | None]:
        """Read all letters; None stands for a record that is none of ours."""
        reader, left = self._reader, set(self._partitions)
        await reader.seek_to_beginning(*self._partitions)
        heard_at = time.monotonic()
        while left:
            found = await reader.getmany(*left, timeout_ms=FETCH_MS, max_records=FETCH_RECORDS_MAX)
            self._look_at_ends()
            for partition, records in found.items():
                heard_at = time.monotonic()
                for record in records:
                    if record.offset < self._ends[partition]:
                        yield letter_of(record)
            for partition in list(left):
                end = self._ends.get(partition)
                if end is not None and await reader.position(partition) >= end:
                    left.discard(partition)
            if left and time.monotonic() - heard_at > SILENCE_SECONDS:
                raise Stop(
                    f"the dead letters could not be read for {SILENCE_SECONDS} seconds:"
                    " see whether the broker is up, and try again"
                )

    def _look_at_ends(self) -> None:
        """Note where partitions end, once it is known: before what may still be aborted."""
        for partition in self._partitions:
            end, stable = self._reader.highwater(partition), None
            if end is not None and partition not in self._ends:
                stable = self._reader.last_stable_offset(partition)
                is_known = stable is not None and stable >= 0
                self._ends[partition] = min(end, stable) if is_known else end


@asynccontextmanager
async def open_box(settings: Settings) -> AsyncIterator[LetterBox]:
    """Open the dead-letter topic. Raises Stop if it cannot be read."""
    topic = settings.dead_letters_topic
    reader = AIOKafkaConsumer(
        **kafka_options(settings),
        enable_auto_commit=False,
        # Nobody goes on where it stops, and what retention has removed is gone.
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    try:
        partitions = await _partitions_of(settings, topic)
        await reader.start()
        reader.assign(partitions)
        yield LetterBox(reader, partitions)
    except KafkaError as error:
        raise Stop(f"{topic} cannot be read: {type(error).__name__}") from None
    finally:
        await reader.stop()


async def _partitions_of(settings: Settings, topic: str) -> list[TopicPartition]:
    admin = AIOKafkaAdminClient(**kafka_options(settings))
    try:
        await admin.start()
        if topic not in await admin.list_topics():
            raise Stop(f"there is no topic {topic}: run lotmeter topics")
        [found] = await admin.describe_topics([topic])
        numbers = sorted(part["partition"] for part in found["partitions"])
        return [TopicPartition(topic, number) for number in numbers]
    finally:
        await admin.close()


@dataclass(slots=True)
class Plan:
    """What is to be sent through again, and what is not."""

    chosen: Counter[tuple[str, str]] = field(default_factory=Counter)  # By topic and reason.
    copies: int = 0
    cut: int = 0
    foreign: int = 0  # None of ours, or of topics that are not read.
    places: set[tuple[int, int]] = field(default_factory=set)  # On the dead-letter topic.


async def plan_of(box: LetterBox, choice: Choice, *, topics: Collection[str]) -> Plan:
    """Choose what is to be sent through again: each record once, however often it was rejected."""
    plan = Plan()
    seen: set[bytes] = set()
    async for letter in box.letters():
        if letter is None or letter.topic not in topics:
            plan.foreign += 1
        elif not choice.holds(*letter.found_at):
            continue
        elif letter.is_cut:
            plan.cut += 1
        elif (digest := letter.digest) in seen:
            plan.copies += 1
        else:
            seen.add(digest)
            plan.places.add(letter.at)
            plan.chosen[letter.topic, letter.reason] += 1
        if len(plan.places) > LETTERS_MAX:
            raise Stop(f"more than {LETTERS_MAX:,} are chosen: choose fewer")
    return plan


async def send_again(
    settings: Settings, box: LetterBox, plan: Plan, *, progress: Callable[[int], None]
) -> tuple[int, int]:
    """Send the chosen records to where they were read, as they were.

    Returns how many were sent, and how many the broker refused as too large.
    """
    sent = refused = 0
    async with producing(settings, max_request_size=REQUEST_BYTES_MAX, linger_ms=20) as producer:
        underway: list[asyncio.Task[bool]] = []
        async for letter in box.letters():
            if letter is not None and letter.at in plan.places:
                underway.append(asyncio.create_task(_send(producer, letter)))
            if len(underway) >= UNDERWAY_MAX:
                found = await asyncio.gather(*underway)
                sent, refused = sent + sum(found), refused + len(found) - sum(found)
                underway.clear()
                progress(sent + refused)
        found = await asyncio.gather(*underway)
    return sent + sum(found), refused + len(found) - sum(found)


async def _send(producer: AIOKafkaProducer, letter: Letter) -> bool:
    # To the partition it came from, whoever chose that; one that is gone leaves it to the key.
    numbers = await producer.partitions_for(letter.topic)
    partition = letter.partition if letter.partition in numbers else None
    headers = list(letter.headers)
    try:
        if letter.key is None and letter.value is None:
            # The client takes what has neither in a batch only.
            batch = producer.create_batch()
            batch.append(timestamp=None, key=None, value=None, headers=headers)
            number = min(numbers) if partition is None else partition
            await (await producer.send_batch(batch, letter.topic, partition=number))
        else:
            await producer.send_and_wait(
                letter.topic, letter.value, key=letter.key, partition=partition, headers=headers
            )
    except MessageSizeTooLargeError:
        return False
    return True
