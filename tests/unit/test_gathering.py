"""A batch takes what was fetched first, number by number and up to its limits, and puts it in order
of time.
"""

import asyncio
import time
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition

from consumer import loop
from consumer.loop import Loop
from consumer.partitions import Chunk, Held
from consumer.pump import Pump
from consumer.settings import Settings
from metering.errors import Rejected
from metering.events import Count
from metering.meter import Receipt

ONE, THREE, FIVE = (TopicPartition("usage.mu", number) for number in (1, 3, 5))
OTHER_ONE = TopicPartition("usage.seat", 1)


class FakePartitions:
    def __init__(self, *held):
        self.held = self.ready = held

    def is_ready(self, held):
        return held in self.held


def record_of(channel, at):
    return SimpleNamespace(
        offset=0, key=None, value=channel.encode(), headers=(), timestamp=at, topic=ONE.topic
    )


def decode(_topic, value, _headers):
    if value == b"bad":
        raise Rejected("malformed", "")
    return Count(value.decode(), b"digest", b"content", 0, "actions", 1, None)


def chunk(number, *channels, at=1, fetched_at=None, is_of_backlog=False):
    """Fetched in the order of numbers, long ago."""
    records = [record_of(channel, at) for channel in channels]
    return Chunk(records, number, 10, fetched_at or number, is_of_backlog)


class FakeMeter:
    """Books that wait for leave to record a batch, by its first number."""

    def __init__(self):
        self.begun = []
        self.leave = {tp.partition: asyncio.Semaphore(0) for tp in (ONE, THREE, FIVE)}

    async def record(self, batch, *, now):
        assert now
        numbers = [part.claim.number for part in batch.slices]
        self.begun.append(numbers)
        await self.leave[numbers[0]].acquire()
        return Receipt()


def a_loop(*held, meter=None, ends=None, **changes):
    client = SimpleNamespace(
        last_stable_offset=(ends or {}).get, highwater={}.get, last_poll_timestamp={}.get
    )
    settings = Settings(kafka_servers="kafka:9092", database_url="postgresql://db/books", **changes)
    for each in held:
        each.claim = SimpleNamespace(number=each.tp.partition)
    return Loop(client, FakePartitions(*held), meter, decode, settings=settings, arrival=2**62)


async def gathered(*held, **changes):
    """Gather once for lane 1; returns the channels of each stretch."""
    stretches = await a_loop(*held, **changes)._gather(1)
    return [[record.value.decode() for record in stretch.records] for stretch in stretches]


def held(tp, *chunks):
    found = Held(tp, "ready")
    found.chunks.extend(chunks)
    return found


async def test_partitions_of_one_number_are_taken_before_those_of_another():
    one, other_one = held(ONE, chunk(2, "a"), chunk(6, "b")), held(OTHER_ONE, chunk(5, "c"))
    three = held(THREE, chunk(3, "d"), chunk(4, "e"))

    found = await gathered(three, one, other_one, batch_records_max=4)

    assert found == [["a"], ["b"], ["c"], ["d"]]
    assert one.is_busy
    assert len(three.chunks) == 1


async def test_a_batch_that_is_large_enough_ends_with_its_number(monkeypatch):
    monkeypatch.setattr(loop, "BATCH_RECORDS_MIN", 3)
    one, three = held(ONE, chunk(1, "a"), chunk(4, "b")), held(THREE, chunk(2, "c"), chunk(3, "d"))
    five = held(FIVE, chunk(5, "e"))

    assert await gathered(five, three, one) == [["a"], ["b"], ["c"], ["d"]]
    assert not five.is_busy
    assert await gathered(five) == [["e"]]


async def test_a_batch_waits_for_what_the_turn_of_its_number_brings(monkeypatch):
    monkeypatch.setattr(loop, "BATCH_RECORDS_MIN", 1)
    one, three = held(ONE, chunk(1, "a")), held(THREE, chunk(2, "b"))
    asked = []

    async def has_brought(_self, number):
        asked.append(number)
        if len(asked) == 1:
            one.chunks.append(chunk(3, "c"))
        return bool(one.chunks)

    monkeypatch.setattr(Pump, "has_brought", has_brought)

    assert await gathered(one, three) == [["a"], ["c"]]
    assert asked == [1, 1]


@pytest.fixture
async def two_lanes(monkeypatch):
    """Two lanes at work on partitions; returns those, and the batches they have begun."""
    monkeypatch.setattr(loop, "BATCH_RECORDS_MIN", 1)
    meter, partitions = FakeMeter(), [held(tp) for tp in (ONE, OTHER_ONE, THREE, FIVE)]
    reader = a_loop(*partitions, meter=meter, lanes=2)

    async def brought(each, number, **kind):
        each.chunks.append(chunk(number, "a", **kind))
        reader.pump.news.set()
        await settled()

    async def recorded(number):
        meter.leave[number].release()
        await settled()

    lanes = [asyncio.create_task(reader._work(lane)) for lane in range(2)]
    yield SimpleNamespace(
        reader=reader, partitions=partitions, brought=brought, recorded=recorded, begun=meter.begun
    )
    for lane in lanes:
        lane.cancel()
    for leave in meter.leave.values():
        for _ in lanes:
            leave.release()
    await asyncio.gather(*lanes, return_exceptions=True)


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_lane_takes_the_number_that_has_waited_longest(two_lanes):
    one, _, three, five = two_lanes.partitions
    for at, each in enumerate((one, three, five, three, one), 1):
        await two_lanes.brought(each, at)
    assert two_lanes.begun == [[1], [3]]

    for number in (1, 3, 3):
        await two_lanes.recorded(number)

    # No number is any lane's own: 1 went to the one first, and then to the other.
    assert two_lanes.begun == [[1], [3], [5], [3], [1]]


async def test_no_two_lanes_are_at_work_on_the_same_channels(two_lanes):
    one, other_one, three, _ = two_lanes.partitions
    for at, each in enumerate((one, other_one, one), 1):
        await two_lanes.brought(each, at)
    assert two_lanes.begun == [[1]]

    await two_lanes.brought(three, 4)
    await two_lanes.recorded(1)

    assert two_lanes.begun == [[1], [3], [1, 1]]


async def test_a_number_that_was_taken_back_and_given_again_waits_for_its_batch(two_lanes):
    one, again = two_lanes.partitions[0], held(ONE)
    again.claim = one.claim
    await two_lanes.brought(one, 1)
    two_lanes.reader._partitions.held = two_lanes.reader._partitions.ready = (again,)
    await two_lanes.brought(again, 2)
    assert two_lanes.begun == [[1]]

    await two_lanes.recorded(1)

    assert two_lanes.begun == [[1], [1]]


async def test_what_came_of_the_numbers_of_a_batch_is_for_any_lane_that_is_free(
    two_lanes, monkeypatch
):
    one, _, three, _ = two_lanes.partitions
    monkeypatch.setattr(loop, "BATCH_RECORDS_MIN", 3)
    three.chunks.append(chunk(2, "a"))
    for at, each in ((1, one), (3, one), (4, three)):
        await two_lanes.brought(each, at)
    assert two_lanes.begun == [[1, 3]]

    monkeypatch.setattr(loop, "BATCH_RECORDS_MIN", 1)
    await two_lanes.recorded(1)

    # The other lane sleeps until it hears of it.
    assert two_lanes.begun == [[1, 3], [1], [3]]


async def test_of_a_stream_one_lane_takes_all(two_lanes):
    one, _, three, five = two_lanes.partitions
    for at, each in enumerate((one, three, five), 1):
        await two_lanes.brought(each, at, fetched_at=time.monotonic())
    assert two_lanes.begun == [[1]]

    await two_lanes.recorded(1)

    assert two_lanes.begun == [[1], [3]]


async def test_what_waits_for_too_long_is_for_any_lane(two_lanes, monkeypatch):
    monkeypatch.setattr(loop, "STREAM_SECONDS_MAX", 0.05)
    one, _, three, _ = two_lanes.partitions
    await two_lanes.brought(one, 1, fetched_at=time.monotonic())
    await two_lanes.brought(three, 2, fetched_at=time.monotonic())
    assert two_lanes.begun == [[1]]

    # Nothing comes any more, and the batch at work does not end.
    async with asyncio.timeout(5):
        while len(two_lanes.begun) < 2:
            await asyncio.sleep(0.01)

    assert two_lanes.begun == [[1], [3]]


async def test_a_backlog_is_for_all_lanes_and_keeps_none_from_a_stream(two_lanes):
    one, _, three, five = two_lanes.partitions
    await two_lanes.brought(one, 1, fetched_at=time.monotonic())
    await two_lanes.brought(five, 2, fetched_at=time.monotonic())
    await two_lanes.brought(three, 3, fetched_at=time.monotonic(), is_of_backlog=True)
    assert two_lanes.begun == [[1], [3]]

    # The batch of the backlog goes on.
    await two_lanes.recorded(1)

    assert two_lanes.begun == [[1], [3], [5]]


async def test_what_is_taken_comes_in_order_of_time():
    one = held(ONE, chunk(1, "c", at=30), chunk(2, "late", at=10))
    three = held(THREE, chunk(3, "a", at=10), chunk(4, "b", at=20))

    # Of one partition the order of its offsets is what counts.
    assert await gathered(one, three) == [["a"], ["b"], ["c"], ["late"]]


async def test_a_batch_ends_with_as_many_records_as_it_may_have():
    one = held(ONE, chunk(1, "a", "a"), chunk(2, "a", "a"))

    assert await gathered(one, batch_records_max=3) == [["a", "a"]]
    assert len(one.chunks) == 1


async def test_the_last_of_a_number_goes_along_if_it_is_little():
    def waiting(*counts):
        one = held(ONE, *[chunk(at, *["a"] * count) for at, count in enumerate(counts, 1)])
        one.fetched_to = 9
        return one

    one, three = waiting(8, 1), held(THREE, chunk(3, "a"))
    assert await gathered(one, three, batch_records_max=8) == [["a"] * 8, ["a"]]
    # Of another number nothing does, and no more than an eighth.
    assert len(three.chunks) == 1
    assert await gathered(waiting(8, 2), batch_records_max=8) == [["a"] * 8]
    assert await gathered(waiting(8, 1, 1), batch_records_max=8) == [["a"] * 8]
    # What the client still has counts, too.
    assert await gathered(waiting(8, 1), ends={ONE: 10}, batch_records_max=8) == [["a"] * 8]


async def test_a_batch_ends_with_more_channels_than_memory_has_room_for(monkeypatch):
    monkeypatch.setattr(loop, "BATCH_CHANNELS_MAX", 2)
    one = held(
        ONE, chunk(1, "a", "bad"), chunk(2, "a", "b"), chunk(3, "b", "c"), chunk(4, "a", "b")
    )

    assert await gathered(one) == [["a", "bad"], ["a", "b"], ["b", "c"]]
    assert len(one.chunks) == 1


async def test_a_batch_of_many_channels_has_fewer_records(monkeypatch):
    monkeypatch.setattr(loop, "BATCH_ROOM", 4 + 2 * loop.CHANNEL_ROOM)
    one = held(ONE, chunk(1, "a", "a"), chunk(2, "a", "b"), chunk(3, "a"))
    three = held(THREE, chunk(1, "a", "a"), chunk(2, "a", "a"), chunk(3, "a"))

    assert await gathered(one) == [["a", "a"], ["a", "b"]]
    assert await gathered(three) == [["a", "a"], ["a", "a"], ["a"]]


async def test_others_get_their_turn_after_each_thousand_records():
    turns = []

    async def others():
        while True:
            turns.append(len(one.chunks))
            await asyncio.sleep(0)

    one = held(ONE, *[chunk(number, *["a"] * 600) for number in range(1, 6)])
    task = asyncio.create_task(others())
    await gathered(one)
    task.cancel()

    assert turns == [3, 1]
