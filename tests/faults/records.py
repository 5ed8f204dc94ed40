"""What producers can do to us: copies, poison, bombs, giants and open transactions."""

import asyncio
import itertools
import time
from datetime import timedelta

import orjson
from aiokafka import AIOKafkaProducer

from tests.faults.members import command_line
from tests.faults.programs import until
from tests.faults.servers import producing
from tests.faults.traffic import DEFECTS_BY_REASON

CODECS = ("gzip", "snappy", "lz4", "zstd")
AROUND = 4

# Poison besides the defects that traffic has anyway, each with the bytes of a good event at hand.
POISON = {
    "no value": lambda _: None,
    "nothing": lambda _: b"",
    "no UTF-8": lambda value: value[:-2] + b"\xff}",
    "UTF-16": lambda value: value.decode().encode("utf-16"),
    "a byte order mark": lambda value: b"\xef\xbb\xbf" + value,
    "two documents": lambda value: value + value,
    "an array": lambda value: b"[" + value + b"]",
    "a NUL": lambda value: value[:-1] + b',"x":"\\u0000"}',
    "a lone surrogate": lambda value: value[:-1] + b',"x":"\\ud800"}',
    "a long integer": lambda value: value[:-1] + b',"x":18446744073709551616}',
    "a number that is none": lambda value: value[:-1] + b',"x":NaN}',
    "depth": lambda value: value[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "another specversion": lambda value: value[:-1] + b',"specversion":"0.3"}',
    "no id": lambda value: value[:-1] + b',"id":""}',
    "a leap second": lambda value: value[:-1] + b',"time":"2026-06-30T23:59:60Z"}',
    "half an offset": lambda value: value[:-1] + b',"time":"2026-06-30T23:59:59"}',
    "a truth for a count": lambda value: value[:-1] + b',"data":{"actions":true}}',
    "a float for a count": lambda value: value[:-1] + b',"data":{"actions":2.0}}',
}


async def poison_everywhere(world):
    """Each kind of poison at the beginning, in the middle and at the end of a batch."""
    await world.start(members=1)
    made = 0
    kinds = [*DEFECTS_BY_REASON.items(), *POISON.items()]
    world.draw.shuffle(kinds)
    for name, make in kinds:
        batches = []
        for place in (0, AROUND // 2, AROUND):
            good = [world.traffic.plain() for _ in range(AROUND)]
            [bad] = [world.traffic.plain(at=world.traffic.now - timedelta(hours=1))]
            if name in DEFECTS_BY_REASON:
                value = make(orjson.loads(bad.value), world.traffic.now)
                value = value if isinstance(value, bytes) else orjson.dumps(value)
                topic = "billing.commands" if name == "wrong_topic" else bad.topic
                bad = bad._replace(value=value, topic=topic)
            else:
                bad = bad._replace(value=make(bad.value))
            batches.append([*good[:place], bad, *good[place:]])
            made += 1
        for partition, batch in enumerate(batches):
            await world.send(message._replace(partition=partition) for message in batch)
        await world.caught_up()
    await world.recovered()
    rejected = await world.ask("SELECT count(*) FROM reject")
    assert rejected == made, (rejected, made)
    world.hit("poison set aside", rejected)
    await world.judge()


async def copies_everywhere(world):
    """The same events in one batch, in others, on other topics and partitions, after restarts."""
    members = await world.start()
    events = [world.traffic.plain() for _ in range(150)]
    await world.send(events)
    for _ in range(2):
        copies = [
            event._replace(
                topic=world.draw.choice(("usage.mu", "usage.message", "usage.workflow")),
                partition=world.draw.randrange(world.partitions),
                value=orjson.dumps({**orjson.loads(event.value), "seen": number}),
            )
            for event in events
            for number in range(2)
        ]
        world.draw.shuffle(copies)
        await world.send(copies)
        await world.caught_up()
        for member in members:
            await member.kill()
            world.report.kills += 1
        # Other content under the same identity, where the first is certain to be the first.
        await world.caught_up()
        await world.send(
            event._replace(value=event.value.replace(b'"data":', b'"data":{},"data":', 1)
                           .replace(b'"type":"', b'"type":"usage.voided","x":"', 1))
            for event in events[:3]
        )  # fmt: skip
        changed = [
            event._replace(value=orjson.dumps({**orjson.loads(event.value), "time": _later(event)}))
            for event in events[:20]
        ]
        await world.send(changed)
    await world.recovered()
    world.hit("copies", await world.ask("SELECT sum(duplicate)::bigint FROM batch"))
    conflicts = "SELECT count(*) FROM reject WHERE reason = 'conflict'"
    world.hit("conflicts", await world.ask(conflicts))
    await world.judge()


def _later(event):
    return orjson.loads(event.value)["time"].replace(".", ".0", 1)


async def disorder(world):
    """Everything in any order, by producers whose clocks are wrong by up to a day."""
    await world.start(members=1)
    messages = list(world.traffic.usage(400))
    world.draw.shuffle(messages)
    before = await world.ask("SELECT min(read_up_to) FROM position")
    for message in messages:
        wrong_ms = int((time.time() + world.draw.uniform(-86_400, 86_400)) * 1_000)
        await world.producer.send(
            world.real(message.topic), message.value, key=message.key, timestamp_ms=wrong_ms
        )
    await world.producer.flush()
    await world.recovered()
    world.hit("wrong times of producers", len(messages))
    # Times of arrival are the broker's: nothing is read up to tomorrow, nor up to yesterday.
    read_up_to = await world.ask("SELECT min(read_up_to) FROM position")
    assert before <= read_up_to <= time.time() * 1_000_000
    await world.judge()


async def all_codecs(world):
    """Every compression that producers may use, and both modes of CloudEvents."""
    await world.start(members=1)
    for codec in CODECS:
        async with producing(world.broker.address, compression_type=codec) as producer:
            world.producer, before = producer, world.producer
            await world.send(world.traffic.usage(150))
            await world.send(_in_headers(world.traffic.plain()) for _ in range(20))
            world.producer = before
    await world.recovered()
    world.hit("codecs", len(CODECS))
    await world.judge()


def _in_headers(message):
    event = orjson.loads(message.value)
    data = event.pop("data")
    headers = tuple((f"ce_{name}", value.encode()) for name, value in event.items())
    return message._replace(value=orjson.dumps(data), headers=headers)


async def giants(world):
    """Values as large as the broker takes, and a megabyte of brackets: rejected, unread."""
    [member] = await world.start(members=1)
    before = _resident_mebibytes(member)
    values = [b"[" + b"[]," * 340_000 + b"[]]", b"x" * 1_000_000, b'{"a":' * 160_000]
    for value in itertools.islice(itertools.cycle(values), 60):
        message = world.traffic.plain()
        await world.send([message, message._replace(value=value), world.traffic.plain()])
    most = max(before, _resident_mebibytes(member))
    await world.recovered()
    most = max(most, _resident_mebibytes(member))
    assert most < before + 250, f"{before} MiB became {most}"
    reason = "SELECT count(*) FROM reject WHERE reason = 'too_large'"
    world.hit("giants set aside", await world.ask(reason))
    await world.judge()


def _resident_mebibytes(member):
    with open(f"/proc/{member.program.process.pid}/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096 >> 20


async def bomb(world):
    """A few kilobytes that become 200 megabytes: halted, not unpacked; the others are read on."""
    [member] = await world.start(members=1)
    before = _resident_mebibytes(member)
    good = [world.traffic.plain() for _ in range(40)]
    await world.send(good[:20])
    topic = world.real("usage.workflow")
    producer = AIOKafkaProducer(
        bootstrap_servers=world.broker.address, compression_type="zstd",
        max_request_size=1 << 30, max_batch_size=1 << 30,
    )  # fmt: skip
    async with producer:
        landed = await producer.send_and_wait(topic, bytes(200_000_000), partition=1)
    after = [world.traffic.plain()._replace(topic="usage.workflow", partition=1) for _ in range(5)]
    await world.send([*good[20:], *after])

    async def is_halted():
        return await world.ask("SELECT count(*) FROM position WHERE halted IS NOT NULL")

    most = before
    for _ in range(60):
        most = max(most, _resident_mebibytes(member))
        if await is_halted():
            break
        await asyncio.sleep(0.5)
    assert await is_halted(), world.last_words()
    await asyncio.sleep(2)
    most = max(most, _resident_mebibytes(member))
    assert most < before + 250, f"{before} MiB became {most}"
    why = await world.ask("SELECT halted FROM position WHERE halted IS NOT NULL")
    assert "UnpackedTooLarge" in why, why
    world.hit("partitions halted", world.logged("partition_halted"))
    behind = str(landed.offset + 1)
    status, _, err = await command_line(
        world.settings, "partitions", "skip", topic, "1", "--to", behind
    )
    assert status == 0, err
    await world.recovered()
    counted = await world.ask("SELECT count(*) FROM event WHERE state = 0")
    world.report.events = counted
    world.report.lost = max(0, len(good) + len(after) - counted)
    assert counted == len(good) + len(after), counted
    status, out, err = await command_line(world.settings, "verify", "--full", "--json")
    assert status == 0, out[:1000] + err


async def producers_transactions(world):
    """Aborted transactions are never counted; one left open holds back what is behind it."""
    [member] = await world.start(members=1)
    options = {"bootstrap_servers": world.broker.address, "transaction_timeout_ms": 8_000}

    async def in_transaction(producer, count):
        for message in list(itertools.islice(world.traffic.usage(count), count)):
            await producer.send(
                world.real(message.topic), message.value, key=message.key,
                partition=world.draw.randrange(world.partitions),
            )  # fmt: skip

    aborted = 0
    async with AIOKafkaProducer(transactional_id=f"{world.name}-a", **options) as producer:
        for number in range(12):
            await producer.begin_transaction()
            await in_transaction(producer, 20)
            if number % 3 == 0:
                await producer.abort_transaction()
                aborted += 20
            else:
                await producer.commit_transaction()
    world.traffic.forget()
    hanging = AIOKafkaProducer(transactional_id=f"{world.name}-b", **options)
    await hanging.start()
    await hanging.begin_transaction()
    await in_transaction(hanging, 20)
    await hanging.flush()
    world.traffic.forget()
    await world.send(world.traffic.usage(100))

    async def held_back():
        return await member.metric("lotmeter_open_transaction_records")

    await until(held_back, 20, "a gauge tells of the open transaction", every=0.5)
    world.hit("records held back", await held_back())
    world.hit("records aborted", aborted)
    # The broker aborts it when its time is over.
    await world.recovered(60)
    # What is fenced now cannot say goodbye in order.
    hanging._closed = True
    await hanging.client.close()
    hanging._sender._sender_task.cancel()
    await world.judge()
