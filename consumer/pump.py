"""Asks the client for records, and keeps as many at hand as the lanes can take."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from itertools import groupby
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

from consumer.partitions import Chunk, fetched_at
from consumer.readers import size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiokafka import AIOKafkaConsumer, ConsumerRecord

    from consumer.partitions import Held, Partitions
    from consumer.settings import Settings

# Decoded without a break. Heartbeats and the other lanes get their turn in between.
CHUNK_RECORDS_MAX = 1_000

# A part of a batch at hand is enough to fill up on a backlog: asking is faster than decoding, and
# all that waits takes memory. A stream comes by itself, for each number of partitions a little:
# what has no room waits with the broker, and misses the turn of its number.
BACKLOG_SHARE, STREAM_SHARE = 1 / 8, 1 / 2

# How long to wait for news, and how long where a lane that is full may be free again soon.
NEWS_MS, ROOM_MS = 200, 20

# Of a backlog the client fetches ahead for the turn that runs, and for the next one. What it holds
# of others is let go of and fetched again: that came to a mebibyte of each partition whose turn had
# ended, a third of a member's memory with 128 of them.
TURNS_AHEAD = 2

# Of a stream no more is fetched of a number that has something waiting, until its turn is near. The
# lane then takes what came in the meantime together with it: of each partition of a question the
# embedded broker has a fifth of a millisecond's work, however little there is. How near is for the
# question to be answered in time: with 16 partitions a tenth of a second, with 128 a third. What
# waits was mostly fetched when its number had its last turn, so turns come as far apart.
STREAM_AHEAD_SECONDS = 0.25
STREAM_AHEAD_SHARE = 1 / 3

# A turn takes all that waits of a number, or so many batches: then each account is worked on as
# rarely as can be, and little is fetched twice.
TURN_BATCHES = 5

# How often to wait for what is on its way, while a lane that works without a break lets time pass.
TRIES = 20

# How long to leave a partition alone that could not be fetched, and how often to try until it is
# no accident of the way.
ERROR_SECONDS = 1
UNPACK_FAILURES_MAX = 5
ONE_BY_ONE_SECONDS = 5

MEBIBYTE = 1 << 20

NOBODYS = TopicPartition("", 0)

log = structlog.get_logger()


class Pump:
    """The one who asks. What it has fetched stands in the chunks of each partition.

    Backlogs queue up for their turns, number by number of their partitions, in as many queues as
    there are lanes: one is fetched while another is worked on. Lanes take from all.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, partitions: Partitions, *, settings: Settings
    ) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._records_max = settings.batch_records_max
        self._bytes_max = settings.batch_mebibytes_max * MEBIBYTE
        self._queues = settings.lanes
        # Set when something has come: anything, and of a queue. Who waits for what a turn brings
        # does so a number of times, and would use them up on what comes of others.
        self.news = asyncio.Event()
        self._brought = [asyncio.Event() for _ in range(self._queues)]
        self._one_by_one_until = 0.0
        # Queue by queue: whose turn it is, and for how many chunks more.
        batch_chunks = math.ceil(settings.batch_records_max / CHUNK_RECORDS_MAX)
        self._turn_chunks = TURN_BATCHES * batch_chunks
        self._next = [0] * self._queues
        self._left = [self._turn_chunks] * self._queues
        # At the last look: of which numbers there is a backlog. Of what is far nothing is held, and
        # of what is paused nothing fetched.
        self._behind: set[int] = set()
        self._far: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        # Of which numbers streams wait for their turn, and since when at least.
        self._queued: set[int] = set()
        self._queued_since = time.monotonic()
        self.asked_at = time.monotonic()  # For the watchdogs.

    async def has_brought(self, number: int) -> bool:
        """Wait for more from the partitions of a number while they have their turn; says whether
        there is some.
        """
        queue = number % self._queues
        for _ in range(TRIES):
            partitions = self._of_number(number)
            if any(held.chunks for held in partitions):
                return True
            is_its_turn = self._next[queue] == number and self._left[queue] < self._turn_chunks
            if not is_its_turn or not any(map(self._left_of, partitions)):
                return False
            self._brought[queue].clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(ROOM_MS / 1_000):
                    await self._brought[queue].wait()
        return False

    async def run(self) -> None:
        """Fetch for ever."""
        while True:
            self.asked_at = time.monotonic()
            await self._look_ahead()
            backlog, streams = self._wanted()
            if await self._fetch_all(backlog, streams):
                continue
            wanted = [held for held in backlog + streams if held.tp not in self._paused]
            if not wanted or time.monotonic() < self._one_by_one_until:
                # A member without partitions only takes part in the group while it asks.
                await self._fetch((), timeout_ms=0)
                await asyncio.sleep(ROOM_MS / 1_000)
            else:
                is_all = len(wanted) == len(self._partitions.ready)
                await self._fetch(wanted, timeout_ms=NEWS_MS if is_all else ROOM_MS)

    async def _fetch_all(self, backlog: Sequence[Held], streams: Sequence[Held]) -> int:
        """Fetch what there is; returns how many chunks."""
        found = 0
        for _, group in groupby(backlog, key=_number_of):
            found += await self._fetch_turn(list(group))
        # A stream is taken as it comes: turns would wait, number by number, for what is on its way.
        # Of what is paused by now the client would forget what it holds.
        streams = [held for held in streams if held.tp not in self._paused]
        if time.monotonic() < self._one_by_one_until:
            for held in streams:
                found += await self._fetch([held], timeout_ms=0)
        elif streams:
            found += await self._fetch(streams, timeout_ms=0)
        return found

    async def _look_ahead(self) -> None:
        """Have the client fetch what is near its turn or has room, and let go of a backlog that is
        far. What it holds of streams without room it keeps, and fetches no more of them: while the
        lanes stood still for ten seconds that came to a mebibyte of each partition. So it does with
        streams of which something waits behind others.
        """
        ready = self._partitions.ready
        behind, near, full = self._numbers_behind(ready), set[int](), set[TopicPartition]()
        self._behind = behind
        for queue in range(self._queues):
            following, partitions = self._next[queue], self._of_queue(queue)
            numbers = [number for number in behind if number % self._queues == queue]
            numbers.sort(key=lambda number: (number < following, number))
            near.update(numbers[:TURNS_AHEAD])
            if not self._has_room_for_streams(partitions):
                full.update(held.tp for held in partitions if held.tp.partition not in behind)
        self._queue(self._streams_queued(ready))
        full.update(held.tp for held in ready if held.tp.partition in self._queued)
        numbers_far = behind - near
        far = {held.tp for held in ready if held.tp.partition in numbers_far}
        paused, self._paused = self._consumer.paused(), far | full
        self._consumer.pause(*self._paused - paused)
        # All others are to be read. Those that are not ready are paused by somebody else.
        self._consumer.resume(*(paused - self._paused).intersection([held.tp for held in ready]))
        if far - self._far:
            await self._let_go([held for held in ready if held.tp in far])
        self._far = far

    def _streams_queued(self, ready: Iterable[Held]) -> set[int]:
        """Tell of which numbers something of a stream waits, and will for a while, as others have
        waited longer. What is left of a backlog is no stream: its number is to be read to its end.
        """
        streams = [held for held in ready if held.tp.partition not in self._behind]
        waiting = [held for held in streams if held.chunks and not held.chunks[0].is_of_backlog]
        at_work = {held.tp.partition for held in ready if held.is_busy}
        next_ones = [held for held in waiting if held.tp.partition not in at_work]
        now = time.monotonic()
        oldest = min(map(fetched_at, next_ones), default=now)
        near_until = oldest + max(STREAM_AHEAD_SECONDS, STREAM_AHEAD_SHARE * (now - oldest))
        near = {held.tp.partition for held in waiting if fetched_at(held) <= near_until}
        return {held.tp.partition for held in waiting} - near

    def _queue(self, queued: set[int]) -> None:
        """Have streams wait for their turn. It comes in a second or so: what they waited is no time
        without an answer, but the rest is, or the watchdog would never see who gets none.
        """
        now = time.monotonic()
        for held in self._partitions.ready:
            if held.asked_since is not None and held.tp.partition in self._queued:
                held.asked_since += now - self._queued_since
        self._queued, self._queued_since = queued, now

    async def _let_go(self, paused: Sequence[Held]) -> None:
        """Have the client forget what it holds: that is what it does when it is asked for records
        of partitions that are paused.
        """
        try:
            await self._ask([held.tp for held in paused], timeout_ms=0)
        except ConsumerStoppedError:
            raise
        except Exception as error:  # noqa: BLE001
            # In its turn it will show again.
            self._go_back(paused)
            log.warning("cannot_let_go", reason=type(error).__name__, partitions=len(paused))

    def _wanted(self) -> tuple[list[Held], list[Held]]:
        """Pick the partitions to ask for: those with a backlog for which their queue has room, in
        turns, as partitions of one number have the same channels; and those without.
        """
        backlog: list[Held] = []
        streams: list[Held] = []
        behind, now = self._behind, time.monotonic()
        for queue in range(self._queues):
            following, partitions = self._next[queue], self._of_queue(queue)
            partitions.sort(key=lambda held: (held.tp.partition < following, held.tp.partition))
            for found, is_behind, has_room in (
                (backlog, True, self._has_room_for_backlog(partitions)),
                (streams, False, self._has_room_for_streams(partitions)),
            ):
                own = [held for held in partitions if (held.tp.partition in behind) == is_behind]
                for held in own:
                    is_asked = has_room and held.tp not in self._paused
                    if is_asked or not has_room or held.tp.partition not in self._queued:
                        held.asked_since = (held.asked_since or now) if is_asked else None
                if has_room:
                    found += [held for held in own if held.ask_at <= now]
        return backlog, streams

    def _has_room_for_backlog(self, partitions: Sequence[Held]) -> bool:
        """Say whether a queue has room for more of a backlog.

        What was fetched of one counts until a lane has it, however little is left by then: with a
        few thousand records in each of many partitions all of them would be here at once.
        """
        chunks = [
            chunk
            for held in partitions
            for chunk in held.chunks
            if chunk.is_of_backlog or held.tp.partition in self._behind
        ]
        return self._has_room(chunks, BACKLOG_SHARE)

    def _has_room_for_streams(self, partitions: Sequence[Held]) -> bool:
        streams = [held for held in partitions if held.tp.partition not in self._behind]
        return self._has_room([chunk for held in streams for chunk in held.chunks], STREAM_SHARE)

    def _has_room(self, chunks: Sequence[Chunk], share: float) -> bool:
        """Say whether less waits than a share of a batch."""
        return (
            sum([len(chunk.records) for chunk in chunks]) < share * self._records_max
            and sum([chunk.bytes for chunk in chunks]) < share * self._bytes_max
        )

    async def _fetch_turn(self, group: Sequence[Held]) -> int:
        """Fetch from the partitions of one number until they had their turn; returns how many
        chunks.

        Of a backlog a batch so has much of few partitions: many events of each of few channels,
        whose accounts are loaded, settled and written once.
        """
        number = group[0].tp.partition
        queue = number % self._queues
        partitions = self._of_queue(queue)
        if not self._has_room_for_backlog(partitions):
            # Whoever has the turn goes on with it.
            return 0
        found = 0
        if number != self._next[queue]:
            self._next[queue], self._left[queue] = number, self._turn_chunks
        await self._look_ahead()
        while self._left[queue] > 0 and self._has_room_for_backlog(partitions):
            self.asked_at = time.monotonic()
            chunks = 0
            for held in group:
                if held.ask_at <= self.asked_at:
                    chunks += await self._fetch([held], timeout_ms=0, is_backlog=True)
            for _ in range(TRIES):
                on_its_way = [held for held in group if self._left_of(held)]
                if chunks or not on_its_way:
                    break
                # A lane that works without a break lets any time pass.
                chunks = await self._fetch(on_its_way, timeout_ms=ROOM_MS, is_backlog=True)
            if not chunks:
                self._left[queue] = 0
            self._left[queue] -= chunks
            found += chunks
        if self._left[queue] <= 0:
            self._next[queue] = number + 1
            self._left[queue] = self._turn_chunks
        return found

    def rest_of(self, number: int) -> int:
        """Say how many records are still to be read of a number, as far as the client knows."""
        partitions = self._of_number(number)
        waiting = [len(chunk.records) for held in partitions for chunk in held.chunks]
        return sum(waiting) + sum(map(self._left_of, partitions))

    def _of_number(self, number: int) -> list[Held]:
        return [held for held in self._partitions.ready if held.tp.partition == number]

    def _of_queue(self, queue: int) -> list[Held]:
        ready = self._partitions.ready
        return [held for held in ready if held.tp.partition % self._queues == queue]

    def _left_of(self, held: Held) -> int:
        """Say how many offsets are still to be had, as far as the client knows."""
        if not self._partitions.is_ready(held) or held.ask_at > time.monotonic():
            return 0
        return self._unread(held)

    def _unread(self, held: Held) -> int:
        end = self._consumer.last_stable_offset(held.tp)
        return 0 if end is None else max(0, end - held.fetched_to)

    def _numbers_behind(self, ready: Iterable[Held]) -> set[int]:
        """Tell of which numbers there is a backlog: all that is ready is looked through at once."""
        now = time.monotonic()
        return {
            held.tp.partition
            for held in ready
            if self._unread(held) >= CHUNK_RECORDS_MAX and held.ask_at <= now
        }

    async def _fetch(
        self, wanted: Sequence[Held], *, timeout_ms: int, is_backlog: bool = False
    ) -> int:
        """Put what has come into the chunks; returns how many chunks."""
        # To the client no partition means all, also those that are being loaded: what it gave of
        # them would be lost.
        tps = [held.tp for held in wanted] or [NOBODYS]
        try:
            found = await self._ask(tps, timeout_ms=timeout_ms)
        except ConsumerStoppedError:
            raise
        except Exception as error:  # noqa: BLE001  # What cannot be unpacked raises anything.
            await self._cannot_fetch(wanted, error)
            return 0

        chunks = 0
        for held in wanted:
            # During the question it may have been taken back, or given back to be claimed again.
            if not self._partitions.is_ready(held):
                continue
            held.failures = 0
            position = await self._consumer.position(held.tp)
            if position > held.fetched_to:
                records = found.get(held.tp, [])
                size = size_of(records)
                now = time.monotonic()
                held.chunks.append(Chunk(records, position, size, now, is_backlog))
                held.fetched_to = position
                self.news.set()
                self._brought[held.tp.partition % self._queues].set()
                chunks += 1
        if chunks:
            await asyncio.sleep(0)
        return chunks

    async def _ask(
        self, tps: Sequence[TopicPartition], *, timeout_ms: int
    ) -> Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]]:
        self._partitions.asked.update(tps)
        try:
            return await self._consumer.getmany(
                *tps, timeout_ms=timeout_ms, max_records=CHUNK_RECORDS_MAX
            )
        finally:
            self._partitions.asked.difference_update(tps)

    def _go_back(self, asked: Iterable[Held]) -> None:
        """Have the client go on where we are: of partitions that were asked together it forgets
        what it had in hand, and it steps over what is too large.
        """
        for held in asked:
            if self._partitions.is_ready(held):
                self._consumer.seek(held.tp, held.fetched_to)

    async def _cannot_fetch(self, wanted: Sequence[Held], error: Exception) -> None:
        """Go back to where we are, and halt the partition if it will never be better."""
        self._go_back(wanted)
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


def _number_of(held: Held) -> int:
    return held.tp.partition


def _is_about_records(error: Exception) -> bool:
    """Say whether the client got records and cannot make sense of them."""
    return isinstance(error, CorruptRecordException) or not isinstance(error, KafkaError)
