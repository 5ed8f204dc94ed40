"""What is fetched waits for its lane, with the holes of the log, and not more than it takes."""

import asyncio
import time
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
)

from consumer.partitions import Chunk, Held
from consumer.pump import (
    CHUNK_RECORDS_MAX,
    STREAM_AHEAD_SECONDS,
    TRIES,
    TURN_BATCHES,
    UNPACK_FAILURES_MAX,
    Pump,
)
from consumer.settings import Settings

ONE, TWO, THREE = (TopicPartition("usage.mu", number) for number in (1, 2, 3))
OTHER_ONE = TopicPartition("usage.seat", 1)


class Record(NamedTuple):
    offset: int
    value: bytes
    headers: tuple = ()


class FakeConsumer:
    """Gives what lies ready; a record of None is a hole that Kafka made."""

    def __init__(self):
        self.ready = {}
        self.positions = {}
        self.sought = {}
        self.error = None
        self.has_taken = False
        self.ends = {}
        self.meanwhile = lambda: None
        self.are_paused = set()
        self.forgotten = []

    async def getmany(self, *tps, timeout_ms, max_records):
        assert timeout_ms >= 0
        # Without any, the client gives of all.
        self.asked = tps
        self.meanwhile()
        if self.error is not None and not self.has_taken:
            raise self.error
        # It forgets what it holds of a paused one that it is asked for.
        if not self.are_paused.isdisjoint(tps):
            assert self.are_paused.issuperset(tps)
            self.forgotten.append(set(tps))
            return {}
        found = {}
        for tp in tps:
            waiting = self.ready.pop(tp, [])
            taken, rest = waiting[:max_records], waiting[max_records:]
            if rest:
                self.ready[tp] = rest
            self.positions[tp] = self.positions.get(tp, 0) + len(taken)
            if records := [record for record in taken if record is not None]:
                found[tp] = records
        if self.error is not None:
            raise self.error
        return found

    def pause(self, *tps):
        self.are_paused.update(tps)

    def resume(self, *tps):
        self.are_paused.difference_update(tps)

    def paused(self):
        return set(self.are_paused)

    def seek(self, tp, offset):
        self.sought[tp] = self.positions[tp] = offset

    async def position(self, tp):
        return self.positions[tp]

    def last_stable_offset(self, tp):
        return self.ends.get(tp)


class FakePartitions:
    def __init__(self, *tps):
        self.held = [Held(tp, "ready") for tp in tps]
        self.asked = set()
        self.halted = {}
        self.has_joined = True

    @property
    def ready(self):
        return [held for held in self.held if held.state == "ready"]

    def is_ready(self, held):
        return held in self.ready

    async def halt(self, held, why):
        self.halted[held.tp] = why


def records(*offsets, size=10):
    return [None if offset is None else Record(offset, b"v" * size) for offset in offsets]


async def wanted_by(pump):
    """List the partitions that are asked for, those with a backlog first."""
    await pump._look_ahead()
    backlog, streams = pump._wanted()
    return [held.tp for held in backlog + streams]


@pytest.fixture
def consumer():
    return FakeConsumer()


def a_pump(consumer, *tps, **changes):
    partitions = FakePartitions(*tps)
    settings = Settings(kafka_servers="kafka:9092", database_url="postgresql://db/books", **changes)
    return Pump(consumer, partitions, settings=settings), partitions


async def test_what_comes_stands_in_the_chunks_and_wakes_the_lanes(consumer):
    pump, partitions = a_pump(consumer, ONE, TWO)
    consumer.ready = {ONE: records(0, 1, 2)}

    assert await pump._fetch(partitions.held, timeout_ms=0) == 1

    [chunk] = partitions.held[0].chunks
    assert [record.offset for record in chunk.records] == [0, 1, 2]
    assert (chunk.to_offset, partitions.held[0].fetched_to) == (3, 3)
    assert pump.news.is_set()
    assert not partitions.held[1].chunks
    assert partitions.asked == set()


async def test_holes_behind_the_last_record_are_part_of_its_chunk(consumer):
    pump, partitions = a_pump(consumer, ONE)
    consumer.ready = {ONE: records(0, 1, None, None)}

    await pump._fetch(partitions.held, timeout_ms=0)

    assert partitions.held[0].chunks[0].to_offset == 4


async def test_a_stretch_of_nothing_but_holes_moves_the_partition_on(consumer):
    pump, partitions = a_pump(consumer, ONE)
    consumer.ready = {ONE: records(None, None, None)}

    await pump._fetch(partitions.held, timeout_ms=0)

    [chunk] = partitions.held[0].chunks
    assert (chunk.records, chunk.to_offset) == ([], 3)


async def test_what_was_taken_back_during_the_question_is_dropped(consumer):
    pump, partitions = a_pump(consumer, ONE)
    [held] = partitions.held
    consumer.ready = {ONE: records(0, 1)}
    consumer.meanwhile = partitions.held.clear

    assert await pump._fetch([held], timeout_ms=0) == 0

    assert not held.chunks


async def test_who_has_no_partition_asks_for_none(consumer):
    pump, _ = a_pump(consumer)
    consumer.ready = {ONE: records(0, 1)}

    await pump._fetch((), timeout_ms=0)

    # What the client was not asked for stays with it.
    assert consumer.ready == {ONE: records(0, 1)}
    assert consumer.asked
    assert ONE not in consumer.asked


async def test_others_can_see_what_is_being_asked(consumer):
    pump, partitions = a_pump(consumer, ONE)
    seen = set()
    consumer.meanwhile = lambda: seen.update(partitions.asked)

    await pump._fetch(partitions.held, timeout_ms=0)

    assert seen == {ONE}


async def test_a_queue_that_has_a_batch_waiting_is_not_filled_further(consumer):
    pump, partitions = a_pump(consumer, ONE, TWO, THREE, batch_records_max=3)
    consumer.ready = {ONE: records(0, 1, 2)}
    await pump._fetch(partitions.held[:1], timeout_ms=0)

    assert await wanted_by(pump) == [TWO]
    assert partitions.held[0].asked_since is None
    assert partitions.held[1].asked_since is not None


async def test_a_stream_waits_for_its_turn_with_the_lanes_and_a_backlog_with_the_client(consumer):
    pump, partitions = a_pump(consumer, ONE, THREE, batch_records_max=8)
    consumer.ready = {ONE: records(0, 1, 2)}
    await pump._fetch(partitions.held, timeout_ms=0)

    # Of the stream there is room for half a batch, of a backlog for an eighth.
    assert await wanted_by(pump) == [ONE, THREE]
    consumer.ends = {ONE: 3 + CHUNK_RECORDS_MAX}
    assert await wanted_by(pump) == [THREE]
    consumer.ends = {}
    consumer.ready = {ONE: records(3)}
    await pump._fetch(partitions.held, timeout_ms=0)
    assert await wanted_by(pump) == []


async def test_streams_that_wait_do_not_keep_a_backlog_waiting(consumer):
    pump, partitions = a_pump(consumer, ONE, THREE, batch_records_max=8)
    consumer.ready = {ONE: records(0, 1, 2, 3)}
    await pump._fetch(partitions.held, timeout_ms=0)
    consumer.ready = {THREE: records(0)}
    consumer.ends = {THREE: CHUNK_RECORDS_MAX}

    await take_turns(pump)

    assert taken_by(partitions) == [ONE, THREE]


async def test_a_backlog_of_which_little_is_left_keeps_the_next_one_waiting(consumer):
    tps = [TopicPartition("usage.mu", number) for number in range(1, 200, 2)]
    pump, partitions = a_pump(consumer, *tps)
    # As after a short downtime: a little more than a chunk in each of many partitions.
    few = records(*range(CHUNK_RECORDS_MAX + 500))
    consumer.ready = {tp: list(few) for tp in tps}
    consumer.ends = dict.fromkeys(tps, len(few))

    for _ in tps:
        await take_turns(pump)

    waiting = [chunk for held in partitions.held for chunk in held.chunks]
    assert sum(len(chunk.records) for chunk in waiting) < 10 * CHUNK_RECORDS_MAX
    # What a lane takes makes room for what comes next.
    for held in partitions.held:
        held.chunks.clear()
    await take_turns(pump)
    assert len(set(taken_by(partitions))) > 1


async def test_the_client_fetches_no_stream_for_which_there_is_no_room(consumer):
    pump, partitions = a_pump(consumer, ONE, TWO, THREE, OTHER_ONE, batch_records_max=4)
    consumer.ready = {ONE: records(0, 1)}
    await pump._fetch(partitions.held[:1], timeout_ms=0)

    await pump._look_ahead()

    # Those of its queue, whatever their number and topic; and it keeps what it holds of them.
    assert consumer.paused() == {ONE, THREE, OTHER_ONE}
    assert consumer.forgotten == []
    streams = partitions.held
    consumer.ready = {tp: records(0) for tp in (TWO, THREE)}
    await pump._fetch_all([], streams)
    assert taken_by(partitions) == [ONE, TWO]
    assert consumer.forgotten == []
    partitions.held[0].chunks.clear()
    await pump._look_ahead()
    assert consumer.paused() == set()
    await take_turns(pump)
    assert taken_by(partitions) == [TWO, THREE]


def numbers_paused(consumer):
    """List the numbers of which all partitions are paused, and see that no other one is."""
    numbers = {tp.partition for tp in consumer.paused()}
    assert consumer.paused() == {TopicPartition(topic, n) for topic in "ab" for n in numbers}
    return sorted(numbers)


@pytest.fixture
def streams(consumer):
    """Make a pump with six numbers of two topics, and one that lets something wait for seconds."""
    tps = [TopicPartition(topic, number) for topic in "ab" for number in range(6)]
    pump, partitions = a_pump(consumer, *tps)

    def wait(topic, number, *, since):
        held = next(held for held in partitions.held if held.tp == TopicPartition(topic, number))
        held.chunks.append(Chunk(records(0), 1, 10, time.monotonic() - since))
        return held

    return pump, wait


async def test_of_streams_that_wait_only_those_near_their_turn_are_fetched(streams, consumer):
    pump, wait = streams
    for number, since in [(4, 0.9), (1, 0.5), (0, 0.4), (3, 0.01)]:
        wait("a", number, since=since)
    wait("b", 0, since=0.85)

    await pump._look_ahead()

    # Next are 4 and 0, all of it; nothing waits of 2 and 5.
    assert numbers_paused(consumer) == [1, 3]
    await pump._fetch_all(*pump._wanted())
    assert {tp.partition for tp in consumer.asked} == {0, 2, 4, 5}
    assert consumer.forgotten == []


async def test_what_is_fetched_of_streams_goes_on_with_the_turns(streams, consumer):
    pump, wait = streams
    helds = [wait("a", number, since=0.9 - number / 5) for number in range(5)]
    await pump._look_ahead()
    assert numbers_paused(consumer) == [2, 3, 4]

    # A lane takes the first; of what came since then something waits, behind all others.
    helds[0].is_busy = True
    helds[0].chunks.clear()
    await pump._look_ahead()
    assert numbers_paused(consumer) == [3, 4]
    wait("b", 0, since=0.2)
    await pump._look_ahead()
    assert numbers_paused(consumer) == [0, 3, 4]
    # What is at work is not next, however long something of it waits: others are.
    wait("a", 0, since=5)
    await pump._look_ahead()
    assert numbers_paused(consumer) == [3, 4]


async def test_turns_do_not_hide_who_is_never_answered(streams, monkeypatch):
    """For the watchdog: it counts for how long a partition was asked without an answer."""
    pump, wait = streams
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    first, *_ = [wait("a", number, since=1) for number in range(4)]
    unanswered = pump._partitions.held[6]
    assert unanswered.tp == TopicPartition("b", 0)
    asked = 0.0
    for is_near in [True, False] * 20:
        # Longest waited, or just come.
        first.chunks[0] = first.chunks[0]._replace(fetched_at=now - 99 * is_near)
        await pump._look_ahead()
        pump._wanted()
        assert (unanswered.tp in pump._consumer.paused()) == (not is_near)
        now += 0.25
        asked += 0.25 * is_near
    await pump._look_ahead()

    assert now - unanswered.asked_since == pytest.approx(asked)


async def test_where_turns_take_long_streams_are_near_for_longer(streams, consumer):
    pump, wait = streams
    for number, since in [(0, 6), (1, 4.1), (2, 3.9)]:
        wait("a", number, since=since)

    await pump._look_ahead()

    assert numbers_paused(consumer) == [2]


async def test_as_long_as_turns_come_soon_all_streams_are_fetched(streams, consumer):
    pump, wait = streams
    for number in range(6):
        wait("a", number, since=0.9 * STREAM_AHEAD_SECONDS * number / 5)

    await pump._look_ahead()

    assert consumer.paused() == set()


async def test_a_backlog_is_not_fetched_as_a_stream_that_waits(streams, consumer):
    pump, wait = streams
    for number in range(6):
        wait("a", number, since=2 - number / 3)
    consumer.ends = {TopicPartition("b", number): CHUNK_RECORDS_MAX for number in (2, 3, 4)}

    await pump._look_ahead()

    # Of the backlogs two of one queue are near, and one of the other.
    assert numbers_paused(consumer) == [5]
    consumer.ends.clear()
    for held in pump._partitions.held[2:5]:
        held.chunks[0] = held.chunks[0]._replace(is_of_backlog=True)
    await pump._look_ahead()
    assert numbers_paused(consumer) == [5]


async def test_a_batch_is_bounded_in_bytes_too(consumer):
    pump, partitions = a_pump(consumer, ONE, batch_mebibytes_max=1)
    consumer.ready = {ONE: records(0, size=1 << 20)}
    await pump._fetch(partitions.held, timeout_ms=0)

    assert await wanted_by(pump) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OffsetOutOfRangeError({TWO: 7}), "offset 0 is no longer in the log, or not yet"),
        # The client steps over the record once it has said so.
        (RecordTooLargeError("too large", TWO, 7, 100), "offset 0 is too large to fetch"),
    ],
)
async def test_a_partition_of_which_something_is_missing_is_halted(consumer, error, words):
    pump, partitions = a_pump(consumer, ONE, TWO)
    consumer.error = error

    await pump._fetch(partitions.held[1:], timeout_ms=0)

    assert partitions.halted == {TWO: words}


async def test_a_partition_that_cannot_be_unpacked_is_halted_in_the_end(consumer):
    pump, partitions = a_pump(consumer, ONE)
    consumer.error = EOFError()

    for _ in range(UNPACK_FAILURES_MAX - 1):
        await pump._fetch(partitions.held, timeout_ms=0)
    assert partitions.halted == {}

    await pump._fetch(partitions.held, timeout_ms=0)
    assert partitions.halted == {ONE: "offset 0 cannot be unpacked: EOFError"}


async def test_an_error_that_may_pass_halts_nothing(consumer):
    pump, partitions = a_pump(consumer, ONE)
    consumer.error = TopicAuthorizationFailedError("usage.mu")

    for _ in range(3 * UNPACK_FAILURES_MAX):
        await pump._fetch(partitions.held, timeout_ms=0)

    assert partitions.halted == {}
    assert await wanted_by(pump) == []


async def test_what_the_client_had_in_hand_when_it_failed_is_fetched_again(consumer):
    pump, partitions = a_pump(consumer, ONE, TWO)
    consumer.ready = {ONE: records(0, 1), TWO: records(0)}
    await pump._fetch(partitions.held, timeout_ms=0)
    consumer.ready = {ONE: records(2, 3)}
    consumer.error = CorruptRecordException()
    consumer.has_taken = True

    await pump._fetch(partitions.held, timeout_ms=0)

    # Nobody knows yet whose error it is.
    assert consumer.sought == {ONE: 2, TWO: 1}
    assert partitions.halted == {}
    assert consumer.positions == {ONE: 2, TWO: 1}


async def take_turns(pump):
    """Let every partition that is wanted have its turn, once."""
    await pump._look_ahead()
    await pump._fetch_all(*pump._wanted())


def taken_by(partitions):
    """List the partitions by the chunks that were fetched, in their order."""
    chunks = [(chunk.fetched_at, held.tp) for held in partitions.held for chunk in held.chunks]
    return [tp for _, tp in sorted(chunks)]


async def test_of_a_backlog_a_batch_has_much_of_few_partitions(consumer):
    many = records(*range(3 * CHUNK_RECORDS_MAX))
    pump, partitions = a_pump(consumer, THREE, ONE, OTHER_ONE, batch_records_max=80_000)
    consumer.ready = {THREE: many, ONE: many, OTHER_ONE: many}
    consumer.ends = dict.fromkeys(consumer.ready, len(many))

    await take_turns(pump)

    # Partitions of one number have the same channels.
    assert taken_by(partitions) == [ONE, OTHER_ONE] * 3 + [THREE] * 3


async def test_a_backlog_that_never_ends_leaves_their_turn_to_others(consumer):
    many = records(*range(20 * CHUNK_RECORDS_MAX))
    pump, partitions = a_pump(
        consumer, ONE, THREE, batch_records_max=2 * CHUNK_RECORDS_MAX, batch_mebibytes_max=512
    )
    turn = 2 * TURN_BATCHES
    order = []
    consumer.ends = {ONE: 2**40, THREE: 2**40}
    for _ in range(3 * turn):
        consumer.ready.update({ONE: list(many), THREE: list(many)})
        await take_turns(pump)
        order += taken_by(partitions)
        for held in partitions.held:
            held.chunks.clear()

    assert len(order) > 2 * turn
    assert order == ([ONE] * turn + [THREE] * turn + [ONE] * turn)[: len(order)]


async def test_the_client_holds_nothing_of_a_backlog_that_is_far_from_its_turn(consumer):
    numbers = (0, 1, 2, 4, 5, 6)
    backlog = [TopicPartition(topic, number) for topic in ("a", "b") for number in numbers]
    streams = [TopicPartition("a", 3), TopicPartition("a", 7)]
    pump, partitions = a_pump(consumer, *backlog, *streams, lanes=2)
    # Of the last nobody knows yet how much there is.
    consumer.ends = {**dict.fromkeys(backlog, CHUNK_RECORDS_MAX), streams[0]: 1}
    pump._next = [0, 5]

    await pump._look_ahead()

    # In the one queue it is the turn of 0, then 2; in the other of 5, then 1.
    assert consumer.paused() == {tp for tp in backlog if tp.partition in (4, 6)}
    pump._wanted()
    assert {held.tp for held in partitions.held if held.asked_since is None} == consumer.paused()

    consumer.ready = {tp: records(*range(CHUNK_RECORDS_MAX)) for tp in backlog}
    read = []
    for _ in numbers:
        await take_turns(pump)
        read += taken_by(partitions)
        for held in partitions.held:
            held.chunks.clear()
    # Whoever is asked is read: the client forgets what it holds of those that are paused.
    assert sorted(read) == sorted(backlog)
    await pump._look_ahead()
    assert consumer.paused() == set()


async def test_the_client_forgets_what_it_holds_of_a_backlog_once_it_is_far(consumer):
    numbers = [TopicPartition("a", number) for number in range(4)]
    pump, _ = a_pump(consumer, *numbers, lanes=1)
    consumer.ends = dict.fromkeys(numbers, CHUNK_RECORDS_MAX)
    seen = set()
    consumer.meanwhile = lambda: seen.update(pump._partitions.asked)

    await pump._look_ahead()
    await pump._look_ahead()
    pump._next = [1]
    await pump._look_ahead()

    # Asked for when others have become far, and of all that are: of some it may have had an answer
    # on its way.
    assert consumer.forgotten == [{*numbers[2:]}, {numbers[0], numbers[3]}]
    assert seen == {numbers[0], *numbers[2:]}


async def test_what_the_client_forgets_it_steps_over_nothing(consumer):
    numbers = [TopicPartition("a", number) for number in range(4)]
    pump, partitions = a_pump(consumer, *numbers, lanes=1)
    consumer.ends = dict.fromkeys(numbers, 2 * CHUNK_RECORDS_MAX)
    partitions.held[3].fetched_to = partitions.held[3].failures = 2
    consumer.error = RecordTooLargeError("too large", numbers[3], 2, 100)

    await pump._look_ahead()

    assert consumer.sought == {numbers[2]: 0, numbers[3]: 2}
    # It is no question about one of them.
    assert [held.failures for held in partitions.held] == [0, 0, 0, 2]
    assert partitions.halted == {}


async def test_a_stream_is_taken_as_it_comes(consumer):
    pump, partitions = a_pump(consumer, ONE, OTHER_ONE, THREE)
    consumer.ready = {ONE: records(0, 1), THREE: records(0)}
    # A little more is on its way: nobody waits for it.
    consumer.ends = {ONE: CHUNK_RECORDS_MAX + 1, OTHER_ONE: CHUNK_RECORDS_MAX - 1, THREE: 3}
    partitions.held[0].fetched_to = 2
    asked = []
    consumer.meanwhile = lambda: asked.append(consumer.asked)

    await take_turns(pump)

    assert asked == [(ONE, OTHER_ONE, THREE)]


async def test_what_is_on_its_way_is_waited_for_a_moment(consumer):
    pump, partitions = a_pump(consumer, ONE, THREE)
    consumer.ready, consumer.ends = {THREE: records(0)}, {ONE: CHUNK_RECORDS_MAX}
    asked = []

    def meanwhile():
        asked.append(consumer.asked)
        if len(asked) == 3:
            consumer.ready[ONE] = records(0, 1)

    consumer.meanwhile = meanwhile
    await take_turns(pump)

    assert taken_by(partitions) == [ONE, THREE]


async def test_what_does_not_come_is_not_waited_for(consumer):
    pump, partitions = a_pump(consumer, ONE, THREE)
    consumer.ready, consumer.ends = {THREE: records(0)}, {ONE: CHUNK_RECORDS_MAX, THREE: 1}
    asked = []
    consumer.meanwhile = lambda: asked.append(consumer.asked)

    await take_turns(pump)

    assert asked == [(ONE,)] * (1 + TRIES) + [(THREE,)]
    assert taken_by(partitions) == [THREE]


@pytest.fixture
def turn(consumer):
    """A pump in the middle of a turn of the number 1, with more of it on its way."""
    pump, partitions = a_pump(consumer, ONE, OTHER_ONE, THREE, lanes=1)
    consumer.ends = {ONE: 1, THREE: 1}
    pump._next[0], pump._left[0] = 1, pump._turn_chunks - 1
    return pump, partitions


async def test_whoever_fills_a_batch_waits_for_what_a_turn_brings(turn, consumer):
    pump, partitions = turn
    waiting = asyncio.create_task(pump.has_brought(1))
    await asyncio.sleep(0)
    assert not waiting.done()

    consumer.ready = {OTHER_ONE: records(0)}
    await pump._fetch(partitions.held, timeout_ms=0)

    assert await waiting is True
    assert await pump.has_brought(1) is True


async def test_what_a_turn_brings_is_not_taken_for_news_of_another_queue(consumer, monkeypatch):
    monkeypatch.setattr("consumer.pump.ROOM_MS", 1_000)
    pump, partitions = a_pump(consumer, ONE, TWO, lanes=2)
    consumer.ends, pump._next, pump._left = {ONE: 1}, [0, 1], [1, 1]
    waiting = asyncio.create_task(pump.has_brought(1))

    for offset in range(2 * TRIES):
        consumer.ready = {TWO: records(offset)}
        await pump._fetch(partitions.held[1:], timeout_ms=0)
        await asyncio.sleep(0)
    assert not waiting.done()

    consumer.ready = {ONE: records(0)}
    await pump._fetch(partitions.held[:1], timeout_ms=0)
    assert await waiting is True


async def test_nobody_waits_for_what_a_turn_has_no_more_of(turn, consumer):
    pump, _ = turn
    consumer.ends[ONE] = 0

    async with asyncio.timeout(0):
        assert await pump.has_brought(1) is False


@pytest.mark.parametrize("name", ["_next", "_left"])
async def test_nobody_waits_for_a_number_that_has_not_its_turn(turn, name):
    pump, _ = turn
    vars(pump)[name] = {"_next": [3], "_left": [pump._turn_chunks]}[name]

    async with asyncio.timeout(0):
        assert await pump.has_brought(1) is False


async def test_whoever_fills_a_batch_does_not_wait_for_ever(turn, monkeypatch):
    pump, _ = turn
    monkeypatch.setattr("consumer.pump.ROOM_MS", 1)

    async with asyncio.timeout(5):
        assert await pump.has_brought(1) is False


async def test_what_could_not_be_fetched_is_left_alone_for_the_rest_of_its_turn(consumer):
    pump, partitions = a_pump(consumer, ONE, OTHER_ONE)
    consumer.ready = {OTHER_ONE: records(*range(3 * CHUNK_RECORDS_MAX))}
    consumer.ends = {ONE: CHUNK_RECORDS_MAX}
    asked = []

    def meanwhile():
        asked.append(consumer.asked)
        consumer.error = EOFError() if consumer.asked == (ONE,) else None

    consumer.meanwhile = meanwhile
    await take_turns(pump)

    assert asked == [(ONE,), *[(OTHER_ONE,)] * 4]
    assert partitions.held[0].failures == 1
    assert taken_by(partitions) == [OTHER_ONE] * 3


async def test_who_of_a_stream_cannot_be_fetched_is_found_one_by_one(consumer):
    pump, partitions = a_pump(consumer, ONE, OTHER_ONE, THREE)
    consumer.positions = dict.fromkeys((ONE, OTHER_ONE, THREE), 0)
    consumer.ready = {OTHER_ONE: records(0), THREE: records(0)}

    def meanwhile():
        consumer.error = EOFError() if ONE in consumer.asked else None

    consumer.meanwhile = meanwhile
    await take_turns(pump)
    assert taken_by(partitions) == []

    await take_turns(pump)

    assert taken_by(partitions) == [OTHER_ONE, THREE]
    assert [held.failures for held in partitions.held] == [1, 0, 0]
