"""The loop reads every record once into whatever books it is given, whatever goes wrong."""

import asyncio
import secrets
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from consumer import anchors
from consumer import partitions as partitions_module
from consumer.loop import Loop
from consumer.partitions import Partitions
from consumer.pump import Pump
from consumer.settings import Settings
from metering.errors import Fenced, Rejected, Unavailable
from metering.events import Void
from metering.meter import Claim, Receipt

PARTITIONS = 4
DAY = 86_400_000_000
PATIENCE_SECONDS = 30


@dataclass
class Position:
    next_offset: int
    epoch: int = 0
    anchor: tuple | None = None
    halted: str | None = None
    read_up_to: int = 0


@dataclass
class FakeMeter:
    """Books in memory that keep positions as the real ones do, and fail when told to."""

    positions: dict = field(default_factory=dict)
    records: list = field(default_factory=list)
    batches: list = field(default_factory=list)
    failures: list = field(default_factory=list)  # Taken from the front: (before or after, error).
    delay_seconds: float = 0

    async def claim(self, partitions, *, owner, cluster_id):
        assert owner
        assert cluster_id
        claims = []
        for partition, beginning in sorted(partitions.items()):
            position = self.positions.setdefault(partition, Position(beginning))
            position.epoch += 1
            claims.append(
                Claim(
                    list(self.positions).index(partition),
                    partition,
                    position.epoch,
                    position.next_offset,
                    position.anchor,
                    position.halted,
                )
            )
        return claims

    async def record(self, batch, *, now):
        assert now
        await asyncio.sleep(self.delay_seconds)
        when, error = self.failures.pop(0) if self.failures else (None, None)
        if when == "before":
            raise error
        for part in batch.slices:
            position = self.positions[part.claim.partition]
            mine = (part.claim.epoch, part.from_offset, None)
            if mine != (position.epoch, position.next_offset, position.halted):
                raise Fenced
        for part in batch.slices:
            position = self.positions[part.claim.partition]
            position.next_offset = part.to_offset
            position.anchor = part.anchor or position.anchor
            position.read_up_to = max(position.read_up_to, part.read_up_to)
        self.records += batch.records
        self.batches.append(batch)
        if when == "after":
            raise error
        receipt = Receipt()
        for record in batch.records:
            is_rejected = isinstance(record.found, Rejected)
            receipt.outcomes[record.topic, "rejected" if is_rejected else "applied"] += 1
            receipt.rejects_by_position[record.position] += is_rejected
        return receipt

    async def mark_read(self, claims, *, read_up_to):
        for claim in claims:
            position = self.positions[claim.partition]
            position.read_up_to = max(position.read_up_to, read_up_to)

    async def halt(self, claim, why):
        self.positions[claim.partition].halted = why

    @property
    def values(self):
        return Counter(record.value for record in self.records)


def decode(topic, value, headers):
    assert isinstance(headers, tuple)
    if value is None or value.startswith(b"bad"):
        raise Rejected("malformed")
    return Void(topic, b"digest", b"content", DAY, b"target")


class Member:
    """A member of the group, as the service builds it."""

    def __init__(self, consumer, partitions, loop):
        self.consumer = consumer
        self.partitions = partitions
        self.loop = loop
        self.running = asyncio.create_task(loop.run())

    def is_working(self):
        held = self.partitions.held
        return bool(held) and all(each.state == "ready" for each in held)


@asynccontextmanager
async def a_member(broker, topics, meter, **changes):
    settings = Settings(
        kafka_servers=broker,
        database_url="postgresql://nobody@localhost/nothing",
        **{"idle_mark_seconds": 1, "kafka_commit_seconds": 1, **changes},
    )
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker,
        group_id=topics[0],
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        session_timeout_ms=2_000,
        heartbeat_interval_ms=200,
        fetch_max_wait_ms=50,
        partition_assignment_strategy=(RangePartitionAssignor,),
    )
    partitions = Partitions(consumer, meter, owner=secrets.token_hex(4), cluster_id="a")
    consumer.subscribe(topics, listener=partitions)
    await consumer.start()
    member = Member(
        consumer,
        partitions,
        Loop(consumer, partitions, meter, decode, settings=settings, arrival=DAY),
    )
    try:
        yield member
        member.loop.stop()
        await member.running
    finally:
        member.running.cancel()
        await asyncio.gather(member.running, return_exceptions=True)
        await consumer.stop()


@pytest_asyncio.fixture
async def topics(broker):
    names = [f"loop-{secrets.token_hex(4)}-{letter}" for letter in "ab"]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    await admin.close()
    return names


@pytest_asyncio.fixture
async def send(broker):
    """Send values to the partitions of a topic in turn; returns how often each was sent."""
    async with AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5) as producer:

        async def send(topic, values, **options):
            for number, value in enumerate(values):
                place = {"partition": number % PARTITIONS, **options}
                await producer.send(topic, value, key=b"k", **place)
            await producer.flush()
            return Counter(values)

        yield send


def values(name, number):
    return [orjson.dumps([name, n]) for n in range(number)]


async def becomes_true(claim):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not claim():  # Claims are about many things.
            await asyncio.sleep(0.02)


async def test_every_record_is_recorded_once_and_in_the_order_of_its_partition(
    broker, topics, send
):
    meter = FakeMeter()
    sent = await send(topics[0], values("a", 3_000)) + await send(topics[1], values("b", 2_000))

    async with a_member(broker, topics, meter, batch_records_max=1_500):
        await becomes_true(lambda: len(meter.records) >= sent.total())
        sent += await send(topics[0], values("later", 10))
        await becomes_true(lambda: len(meter.records) >= sent.total())

    assert meter.values == sent
    assert max(len(batch.records) for batch in meter.batches) <= 1_500
    seen = {}
    for record in meter.records:
        place = (record.topic, record.position)
        assert record.offset == seen.get(place, -1) + 1
        seen[place] = record.offset
        assert abs(record.clock - meter.records[-1].clock) < DAY


async def test_a_batch_whose_outcome_is_unknown_is_neither_lost_nor_repeated(broker, topics, send):
    meter = FakeMeter()
    sent = await send(topics[0], values("a", 4_000))
    meter.failures = [
        ("after", Unavailable()),
        ("before", Unavailable()),
        ("before", Fenced()),
        ("after", Unavailable()),
        ("after", Unavailable()),
    ]

    async with a_member(broker, topics, meter, batch_records_max=500):
        await becomes_true(lambda: len(meter.records) >= sent.total())

    assert meter.failures == []
    assert meter.values == sent


async def test_whoever_is_fenced_claims_again_and_goes_on(broker, topics, send):
    meter = FakeMeter()
    async with a_member(broker, topics, meter) as member:
        sent = await send(topics[0], values("a", 100))
        await becomes_true(lambda: len(meter.records) >= sent.total())
        # Somebody who thinks that it owns everything claims it.
        await meter.claim(dict.fromkeys(meter.positions, 0), owner="zombie", cluster_id="a")

        sent += await send(topics[0], values("b", 100))
        await becomes_true(lambda: len(meter.records) >= sent.total())
        await becomes_true(member.is_working)

    assert meter.values == sent


async def test_members_that_come_and_go_read_everything_once(broker, topics, send):
    meter = FakeMeter(delay_seconds=0.01)
    sent = Counter()
    async with a_member(broker, topics, meter, batch_records_max=200) as first:
        await becomes_true(first.is_working)
        sent += await send(topics[0], values("a", 2_000))
        async with a_member(broker, topics, meter, batch_records_max=200) as second:
            sent += await send(topics[1], values("b", 2_000))
            await becomes_true(lambda: first.is_working() and second.is_working())
            assert {len(first.partitions.held), len(second.partitions.held)} == {PARTITIONS}
            sent += await send(topics[0], values("c", 2_000))
        sent += await send(topics[1], values("d", 2_000))
        await becomes_true(lambda: len(meter.records) >= sent.total())

    assert meter.values == sent


async def test_a_member_that_starts_again_goes_on_where_the_books_are(broker, topics, send):
    meter = FakeMeter()
    sent = await send(topics[0], values("a", 50))
    async with a_member(broker, topics, meter):
        await becomes_true(lambda: len(meter.records) >= sent.total())
    sent += await send(topics[0], values("b", 50))

    async with a_member(broker, topics, meter):
        await becomes_true(lambda: len(meter.records) >= sent.total())

    assert meter.values == sent


async def test_another_log_under_the_same_name_is_not_read_and_the_others_are(
    broker, topics, send, monkeypatch
):
    monkeypatch.setattr(anchors, "ANCHOR_SECONDS_MAX", 1)
    meter = FakeMeter()
    await send(topics[0], values("a", 40))
    async with a_member(broker, topics, meter):
        await becomes_true(lambda: len(meter.records) >= 40)
    meter.records.clear()
    changed, shorter = ((topics[0], number) for number in (0, 1))
    meter.positions[changed].anchor = (9, b"another record!!")
    meter.positions[shorter].anchor = (500, b"beyond the end!!")
    meter.positions[shorter].next_offset = 501

    async with a_member(broker, topics, meter):
        await send(topics[0], values("b", 40))
        await becomes_true(lambda: len(meter.records) >= 20)
        await becomes_true(lambda: meter.positions[shorter].halted)

    assert "another one" in meter.positions[changed].halted
    assert "ends before" in meter.positions[shorter].halted
    assert len(meter.records) == 20
    assert sum(position.halted is not None for position in meter.positions.values()) == 2


async def test_records_that_were_removed_before_they_were_read_are_not_passed_over(
    broker, topics, send
):
    meter = FakeMeter()
    await send(topics[0], values("a", 4))
    async with a_member(broker, topics, meter):
        await becomes_true(lambda: len(meter.records) >= 4)
    first = (topics[0], 0)
    meter.positions[first].next_offset = -1
    meter.positions[first].anchor = None

    async with a_member(broker, topics, meter):
        await becomes_true(lambda: meter.positions[first].halted)

    assert "removed before they were read" in meter.positions[first].halted


async def test_a_partition_of_rejects_is_halted_and_the_others_are_read_on(broker, topics, send):
    meter = FakeMeter()
    await send(topics[0], [b"bad"] * 300, partition=2)
    good = await send(topics[0], values("a", 100), partition=3)

    async with a_member(broker, topics, meter, breaker_records_min=300):
        await becomes_true(lambda: any(each.halted for each in meter.positions.values()))
        good += await send(topics[0], values("b", 100), partition=3)
        await becomes_true(lambda: (meter.values - Counter([b"bad"] * 300)) >= good)

    [halted] = [partition for partition, each in meter.positions.items() if each.halted]
    assert halted == (topics[0], 2)
    assert meter.positions[halted].halted == "100 % of its records were rejected"
    # They are set aside all the same: only what would follow them is not read.
    assert meter.positions[halted].next_offset == 300


async def test_a_halted_partition_is_read_on_once_it_was_taken_up_in_the_books(
    broker, topics, send, monkeypatch
):
    monkeypatch.setattr(partitions_module, "HALTED_LOOK_SECONDS", 0.2)
    meter = FakeMeter()
    await send(topics[0], [b"bad"] * 300, partition=2)

    async with a_member(broker, topics, meter, breaker_records_min=300) as member:
        await becomes_true(lambda: any(each.halted for each in meter.positions.values()))
        good = await send(topics[0], values("a", 100), partition=2)
        await asyncio.sleep(1)
        assert not meter.values & good
        assert not member.is_working()

        meter.positions[topics[0], 2].halted = None

        await becomes_true(lambda: meter.values & good == good)
        assert member.is_working()


async def test_rejects_that_are_sent_again_halt_nothing(broker, topics, send):
    meter = FakeMeter()
    headers = [("lotmeter-reason", b"malformed")]
    await send(topics[0], [b"bad"] * 400, partition=2, headers=headers)

    async with a_member(broker, topics, meter, breaker_records_min=300):
        await becomes_true(lambda: len(meter.records) >= 400)
        await asyncio.sleep(0.2)

    assert not any(each.halted for each in meter.positions.values())


async def test_partitions_that_are_read_to_their_end_are_marked_as_read(broker, topics, send):
    meter = FakeMeter()
    await send(topics[0], values("a", 1))

    async with a_member(broker, topics, meter):
        await becomes_true(lambda: len(meter.positions) == 2 * PARTITIONS)
        await becomes_true(lambda: all(each.read_up_to for each in meter.positions.values()))
        before = min(each.read_up_to for each in meter.positions.values())
        await becomes_true(
            lambda: min(each.read_up_to for each in meter.positions.values()) > before
        )


async def test_kafka_is_told_how_far_the_books_are(broker, topics, send):
    meter = FakeMeter()
    await send(topics[0], values("a", 8))
    async with a_member(broker, topics, meter):
        await becomes_true(lambda: len(meter.records) >= 8)

    async with AIOKafkaConsumer(bootstrap_servers=broker, group_id=topics[0]) as tool:
        committed = await tool.committed(TopicPartition(topics[0], 0))

    assert committed == 2


async def test_a_slow_database_leaves_the_backlog_in_kafka(broker, topics, send):
    meter = FakeMeter(delay_seconds=0.5)
    sent = await send(topics[0], values("a", 20_000))

    async with a_member(broker, topics, meter, batch_records_max=1_000) as member:
        await becomes_true(lambda: len(meter.batches) >= 2)
        held = member.partitions.held
        waiting = sum(len(chunk.records) for each in held for chunk in each.chunks)
        meter.delay_seconds = 0
        await becomes_true(lambda: len(meter.records) >= sent.total())

    # A batch for each of two lanes, and a chunk for each partition that was asked in one go.
    assert waiting <= 2 * 1_000 + 2 * PARTITIONS * 1_000
    assert meter.values == sent


async def test_what_was_fetched_ahead_of_a_turn_that_ended_is_let_go_and_fetched_again(
    broker, topics, send, monkeypatch
):
    meter, freed = FakeMeter(), set()
    let_go = Pump._let_go

    async def watched(self, paused):
        held = self._consumer._fetcher._records
        before = set(held)
        await let_go(self, paused)
        assert held.keys().isdisjoint([each.tp for each in paused])
        freed.update(before - held.keys())

    monkeypatch.setattr(Pump, "_let_go", watched)
    # A turn ends after 5,000.
    sent = await send(topics[0], values("a", 7_000 * PARTITIONS))

    async with a_member(broker, topics, meter, lanes=1, batch_records_max=1_000):
        await becomes_true(lambda: len(meter.records) >= sent.total())

    assert freed
    assert meter.values == sent


async def test_a_bug_ends_the_member(broker, topics, send):
    meter = FakeMeter(failures=[("before", ZeroDivisionError("a bug"))])
    await send(topics[0], values("a", 1))

    async with a_member(broker, topics, meter) as member:
        await asyncio.wait([member.running], timeout=PATIENCE_SECONDS)
        errors = member.running.exception().exceptions
        member.running = asyncio.create_task(asyncio.sleep(0))

    assert isinstance(errors[0], ZeroDivisionError)


async def test_a_batch_that_runs_is_finished_before_the_member_stops(broker, topics, send):
    meter = FakeMeter(delay_seconds=0.5)
    sent = await send(topics[0], values("a", 4))

    async with a_member(broker, topics, meter) as member:
        await becomes_true(lambda: member.loop.batch_since)

    assert meter.records
    assert meter.values <= sent
