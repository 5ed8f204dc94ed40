"""The hot path: fetch, record, advance. All control flow between Kafka and the books is here.

    Kafka ──pump──> chunks of each partition ──lane──> batch ──> meter.record ──> advance
              ^            (bounded)         (of what waits longest)                 │
              └─────────── claimed again, after a while: fenced, database away <─────┘

A lane takes whatever has gathered as soon as it is free, so batches are as big as the backlog: all
that waits of the partitions of one number, and of more numbers while it is little. Which comes next
is decided by how long it has waited, but for numbers that another lane is at work on: they have the
same channels. Lanes with numbers of their own drifted apart, and one let its own wait half as long
again as the other. Of a stream one lane takes all, as long as it can.

A batch begins where the books are, not at its first record: logs have holes. Whatever goes wrong
after a batch was begun, its outcome is unknown until the position has been read again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import structlog

from consumer import metrics
from consumer.anchors import anchor_digest
from consumer.partitions import backoff_seconds, fetched_at
from consumer.posting import OWN_HEADER
from consumer.progress import Marker, Progress
from consumer.pump import CHUNK_RECORDS_MAX, MEBIBYTE, Pump
from consumer.readers import channels_of, read_records
from consumer.wall_clock import now_instant
from metering.errors import Fenced, Unavailable, let_go
from metering.meter import Batch, Slice

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping, Sequence

    from aiokafka import AIOKafkaConsumer, ConsumerRecord

    from consumer.partitions import Chunk, Held, Partitions
    from consumer.settings import Settings
    from metering.meter import Decode, Receipt, Record

FENCED_SECONDS_MAX = 1

# A transaction with more would take longer than some seconds, and others wait for its channels.
BATCH_CHANNELS_MAX = 5_000

# The records that memory has room for; what changes of a channel takes the room of some.
BATCH_ROOM = 52_000
CHANNEL_ROOM = 5

# The last of a number goes along with what came before it: by itself it would be a few events of
# each of its channels, with all that each of them costs.
REST_SHARE = 1 / 8

# With so many records a batch is large enough to end with the partitions of one number. They have
# the same channels: each has all its events in one batch, instead of in two.
BATCH_RECORDS_MIN = 1_500

# Two batches of a stream at once share the time of the cores: each takes longer, and what comes
# meanwhile waits for longer. So a lane leaves a stream to the one that is at work on it, until it
# has waited so long: then one is not enough.
STREAM_SECONDS_MAX = 1

_T = TypeVar("_T")
log = structlog.get_logger()


class Recorder(Marker, Protocol):
    """What the loop needs from a meter; tests pass a simpler one."""

    async def record(self, batch: Batch, *, now: int) -> Receipt:
        """Record each event once."""


class Stretch(NamedTuple):
    """What a batch takes of one partition, in the order read; a partition can give several."""

    held: Held
    to_offset: int
    last: ConsumerRecord[bytes, bytes] | None  # The others are let go once they are decoded.
    records: list[Record]


class Loop:
    """Reads the partitions of this member into the books until it is told to stop."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        partitions: Partitions,
        meter: Recorder,
        decode: Decode,
        *,
        settings: Settings,
        arrival: int,  # Microseconds: how far back the arrival of a record may lie.
    ) -> None:
        self._partitions = partitions
        self._meter = meter
        self._decode = decode
        self._settings = settings
        self._arrival = arrival
        self.pump = Pump(consumer, partitions, settings=settings)
        self._progress = Progress(consumer, partitions, meter, settings=settings)
        self._bytes_max = settings.batch_mebibytes_max * MEBIBYTE
        self._is_stopping = False
        # When each batch that runs was begun, by the monotonic clock.
        self.batch_since: dict[int, float] = {}
        # Of which numbers the batch of each lane is, also if they were taken back since.
        self._numbers: list[set[int]] = [set() for _ in range(settings.lanes)]
        # The lanes whose batch began with records of a stream.
        self._on_streams: set[int] = set()

    async def run(self) -> None:
        """Read until `stop` is called and the batches that run are recorded."""
        async with asyncio.TaskGroup() as tasks:
            endless = [
                tasks.create_task(self.pump.run()),
                tasks.create_task(self._partitions.keep_loaded()),
                tasks.create_task(self._progress.keep_telling_kafka()),
                tasks.create_task(self._progress.keep_telling_the_books()),
            ]
            lanes = [tasks.create_task(self._work(lane)) for lane in range(self._settings.lanes)]
            await asyncio.wait(lanes)
            for task in endless:
                task.cancel()
        await self._progress.tell_kafka()

    def stop(self) -> None:
        """Begin no other batch."""
        self._is_stopping = True
        self.pump.news.set()

    # Recording

    async def _work(self, lane: int) -> None:
        failures = 0
        while not self._is_stopping:
            self.pump.news.clear()
            self.batch_since[lane] = time.monotonic()
            stretches = await self._gather(lane)
            if not stretches:
                del self.batch_since[lane]
                if not self._is_stopping:
                    # No longer than until what waits is also this lane's.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(STREAM_SECONDS_MAX):
                            await self.pump.news.wait()
                continue
            partitions = list({stretch.held: None for stretch in stretches})
            try:
                await self._record(stretches, self.batch_since[lane])
                failures = 0
            except Fenced as error:
                let_go(error)
                metrics.FENCED.inc()
                metrics.BATCHES.labels("fenced").inc()
                log.warning("fenced", partitions=len(partitions))
                # Chance guards nothing here: two members shall not try again at the same time.
                seconds = random.uniform(0, FENCED_SECONDS_MAX)  # noqa: S311
                self._partitions.give_back(partitions, seconds=seconds)
            except Unavailable as error:
                let_go(error)
                failures += 1
                reason = metrics.count_database_error(error)
                metrics.DATABASE_RETRIES.labels(reason).inc()
                metrics.BATCHES.labels("unavailable").inc()
                log.warning("database_unavailable", reason=reason, failures=failures)
                self._partitions.give_back(partitions, seconds=backoff_seconds(failures))
            finally:
                del self.batch_since[lane]
                for held in partitions:
                    held.is_busy = False
                # What came of these numbers meanwhile is now for whichever lane is free.
                self._numbers[lane].clear()
                self._on_streams.discard(lane)
                self.pump.news.set()

    async def _gather(self, lane: int) -> list[Stretch]:
        """Decode what has come for a lane, chunk by chunk as it was fetched; returns it in order of
        time: what was bought before it was used is bought first.
        """
        stretches: list[Stretch] = []
        records_max = self._settings.batch_records_max
        records = size = decoded = 0
        channels: set[str] = set()
        while held := await self._next_of(lane, stretches, records):
            chunk = held.chunks[0]
            if not stretches and not chunk.is_of_backlog:
                self._on_streams.add(lane)
            records += len(chunk.records)
            size += chunk.bytes
            if stretches:
                is_full = size > self._bytes_max or len(channels) > BATCH_CHANNELS_MAX
                is_full |= records + CHANNEL_ROOM * len(channels) > BATCH_ROOM
                is_full |= records > records_max and not self._goes_along(held, stretches, records)
                if is_full:
                    break
            held.is_busy = True
            self._numbers[lane].add(held.tp.partition)
            held.chunks.popleft()
            last = chunk.records[-1] if chunk.records else None
            records_read = self._read(held, chunk)
            stretches.append(Stretch(held, chunk.to_offset, last, records_read))
            channels.update(channels_of(records_read))
            decoded += len(records_read)
            if decoded >= CHUNK_RECORDS_MAX:
                # The chunks of a stream are small: a break after each took a twentieth of its time.
                decoded = 0
                await asyncio.sleep(0)
        return _in_order_of_time(stretches)

    def _goes_along(self, held: Held, stretches: Sequence[Stretch], records: int) -> bool:
        """Say whether the next chunk, which is counted with the records of the batch, and all that
        is left of its number go along with what came before it.
        """
        number = held.tp.partition
        if number != stretches[-1].held.tp.partition:
            return False
        rest = self.pump.rest_of(number) - len(held.chunks[0].records)
        return records + rest <= (1 + REST_SHARE) * self._settings.batch_records_max

    async def _next_of(self, lane: int, stretches: Sequence[Stretch], records: int) -> Held | None:
        """Pick the partition whose records a batch takes next: all of one number, which have the
        same channels, before those of another; None once it has enough.
        """
        if stretches:
            number = stretches[-1].held.tp.partition
            found = _oldest(self._partitions.ready, number)
            if found is None and await self.pump.has_brought(number):
                found = _oldest(self._partitions.ready, number)
            if found or records >= BATCH_RECORDS_MIN:
                return found
        others = [numbers for at, numbers in enumerate(self._numbers) if at != lane]
        taken = set[int]().union(*others)
        ready = [held for held in self._partitions.ready if held.tp.partition not in taken]
        if not stretches and self._on_streams:
            ready = [held for held in ready if _is_for_any_lane(held)]
        return _oldest(ready)

    def _read(self, held: Held, chunk: Chunk) -> list[Record]:
        assert held.claim is not None
        now = now_instant()
        return read_records(
            chunk.records,
            held.tp.topic,
            held.claim.number,
            self._decode,
            earliest=now - self._arrival,
            now=now,
        )

    async def _record(self, stretches: Sequence[Stretch], since: float) -> None:
        """Record a batch and advance. Raises Fenced and Unavailable."""
        parts: dict[Held, list[Stretch]] = {}
        for stretch in stretches:
            # What was taken back since it was fetched is somebody else's.
            if self._partitions.is_ready(stretch.held):
                parts.setdefault(stretch.held, []).append(stretch)
        if not parts:
            return
        slices = [self._slice(held, own) for held, own in parts.items()]
        records: list[Record] = []
        for stretch in stretches:
            if stretch.held in parts:
                records += stretch.records
        receipt = await _to_its_end(self._meter.record(Batch(slices, records), now=now_instant()))

        # The books stand: only now is it safe to go on.
        for held, part in zip(parts, slices, strict=True):
            held.next_offset = part.to_offset
        seconds = time.monotonic() - since
        metrics.count(receipt)
        metrics.BATCHES.labels("recorded").inc()
        metrics.BATCH_SECONDS.observe(seconds)
        metrics.BATCH_RECORDS.observe(len(records))
        metrics.HOLES.inc(sum(part.to_offset - part.from_offset for part in slices) - len(records))
        metrics.LAST_COMMIT.set_to_current_time()
        metrics.observe_delays(records, now=now_instant())
        log.debug("batch", records=len(records), partitions=len(parts), seconds=round(seconds, 3))
        await self._halt_where_all_is_rejected(parts, receipt)

    def _slice(self, held: Held, own: Sequence[Stretch]) -> Slice:
        assert held.claim is not None
        to_offset = own[-1].to_offset
        anchor, read_up_to = None, 0
        for stretch in own:
            if stretch.last is not None:
                anchor = (stretch.last.offset, anchor_digest(stretch.last))
                read_up_to = stretch.records[-1].clock
        return Slice(
            held.claim,
            held.next_offset,
            to_offset,
            anchor,
            max(read_up_to, self._progress.read_to_the_end(held, to_offset)),
        )

    async def _halt_where_all_is_rejected(
        self, parts: Mapping[Held, Sequence[Stretch]], receipt: Receipt
    ) -> None:
        """Stop partitions where something is wrong at large: a bad release, a wrong topic."""
        for held, own in parts.items():
            assert held.claim is not None
            seen = sum([len(stretch.records) for stretch in own])
            rejected = receipt.rejects_by_position[held.claim.number]
            if rejected:
                # Dead letters that somebody sends through again say nothing about the stream.
                again = sum(
                    [
                        _is_sent_again(record)
                        for stretch in own
                        for record in stretch.records
                        if record.headers
                    ]
                )
                seen, rejected = seen - again, max(0, rejected - again)
            held.records_seen += seen
            held.records_rejected += rejected
            if held.records_seen < self._settings.breaker_records_min:
                continue
            percent = 100 * held.records_rejected / held.records_seen
            held.records_seen = held.records_rejected = 0
            if percent >= self._settings.breaker_reject_percent:
                await self._partitions.halt(held, f"{percent:.0f} % of its records were rejected")


def _in_order_of_time(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Put those of several partitions in order; those of one partition stay in theirs."""
    queues: dict[Held, deque[Stretch]] = {}
    for stretch in stretches:
        queues.setdefault(stretch.held, deque()).append(stretch)
    ordered: list[Stretch] = []
    while queues:
        held = min(queues, key=lambda held: _first_clock(queues[held][0]))
        ordered.append(queues[held].popleft())
        if not queues[held]:
            del queues[held]
    return ordered


def _first_clock(stretch: Stretch) -> int:
    return stretch.records[0].clock if stretch.records else 0


def _oldest(partitions: Iterable[Held], number: int | None = None) -> Held | None:
    """Pick the partition that has waited longest, of one number or of all."""
    heads = [held for held in partitions if held.chunks and number in (None, held.tp.partition)]
    return min(heads, key=fetched_at, default=None)


def _is_for_any_lane(held: Held) -> bool:
    """Say whether what a partition has is of a backlog, or has waited for too long."""
    if not held.chunks:
        return False
    waited = time.monotonic() - fetched_at(held)
    return held.chunks[0].is_of_backlog or waited >= STREAM_SECONDS_MAX


def _is_sent_again(record: Record) -> bool:
    return any(name.startswith(OWN_HEADER) for name, _ in record.headers)


async def _to_its_end(work: Coroutine[None, None, _T]) -> _T:
    """Await what must not be cancelled: its outcome would be unknown. It has time limits itself."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
