"""A member is killed between batches and inside them, as the relay sends: every notice reaches the
topic, under one id, and none is issued twice.
"""

import asyncio
import random
import secrets
import signal
from datetime import UTC, datetime

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from consumer import topics
from consumer.embedded import embedded_broker
from consumer.settings import Settings
from metering.storage.database import create_engine
from metering.storage.schema import migrate
from tests.builders import limit_set, line, marketing, purchased, registered, workflow
from tests.fakes import MemoryMeter
from tests.members import a_process

CHANNELS = 40
ROUNDS = 40
KILLS = 6
LOOKS_MAX = 3_000
READ_SECONDS = 240
NOW = datetime.now(UTC).isoformat()
INSIDE = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xid IS NOT NULL
"""
SENT = "SELECT NOT EXISTS (SELECT FROM lotmeter.outbox)"
READ = "SELECT sum(next_offset - start_offset) FROM lotmeter.position"


def orders_of(number):
    to = {"channel": f"c-{number}"}
    return [
        registered(NOW, time_zone="UTC", **to),
        limit_set(NOW, "workflow", 100 + number, **to),
        purchased(NOW, "workflow", 10 + number, "l-1", **to),
        purchased(NOW, "marketing", 1 + number, "l-2", **to),
        purchased(NOW, "pu", 100 + number, "l-3", **to),
        # Refused, so that answers are told as well.
        purchased(NOW, "pu", 99, "l-4", **to),
    ]


def uses_of(number, draw):
    to = {"channel": f"c-{number}"}
    sms = {"kind": "sms", "count": 1}
    return draw.choice(
        (
            workflow(NOW, draw.randint(1, 20), **to),
            marketing(NOW, draw.randint(1, 5), **to),
            line("usage.message", "message.sent", NOW, sms, **to),
        )
    )


async def send(producer, lines):
    for each in lines:
        event = each["event"]
        await producer.send(each["topic"], orjson.dumps(event), key=event["subject"].encode())
    await producer.flush()


async def until(watcher, claim, wanted):
    async with asyncio.timeout(READ_SECONDS):
        while await watcher.fetchval(claim) != wanted:
            await asyncio.sleep(0.1)


async def until_more(watcher, read):
    async with asyncio.timeout(READ_SECONDS):
        while await watcher.fetchval(READ) <= read:
            await asyncio.sleep(0.01)


async def kill(watcher, process, draw, *, inside):
    """Kill a member while a transaction of it is open, or while none is; says whether one was."""
    for _ in range(LOOKS_MAX):
        if bool(await watcher.fetchval(INSIDE)) is inside:
            process.send_signal(signal.SIGSTOP)
            if bool(await watcher.fetchval(INSIDE)) is inside:
                break
            process.send_signal(signal.SIGCONT)
        await asyncio.sleep(draw.random() * 0.004)
    was_inside = bool(await watcher.fetchval(INSIDE))
    process.kill()
    await process.wait()
    return was_inside


async def told_on(broker, topic):
    """Read all that was sent to a topic, in whichever partition."""
    async with AIOKafkaConsumer(bootstrap_servers=broker) as reader:
        partitions = [TopicPartition(topic, each) for each in reader.partitions_for_topic(topic)]
        reader.assign(partitions)
        await reader.seek_to_beginning(*partitions)
        messages = []
        while found := await reader.getmany(timeout_ms=2_000):
            messages += [each for batch in found.values() for each in batch]
    return [orjson.loads(message.value) for message in messages]


async def test_each_notice_reaches_the_topic_under_one_id(fresh_database_url):
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    orders = [each for number in range(CHANNELS) for each in orders_of(number)]
    rounds = [[uses_of(number, draw) for number in range(CHANNELS)] for _ in range(ROUNDS)]
    lines = orders + [each for uses in rounds for each in uses]
    memory = MemoryMeter()
    memory.take(lines)
    watcher = await asyncpg.connect(fresh_database_url)
    async with embedded_broker() as broker:
        environ = {
            "LOTMETER_KAFKA_SERVERS": broker,
            "LOTMETER_DATABASE_URL": fresh_database_url,
            "LOTMETER_HTTP_ADDRESS": "127.0.0.1:0",
            "LOTMETER_SESSION_TIMEOUT_SECONDS": "2",
            "LOTMETER_BATCH_RECORDS_MAX": "20",
            "LOTMETER_LOG_LEVEL": "error",
        }
        settings = Settings.from_environ(environ)
        await topics.create_missing(settings, partitions=4, replication=1)
        engine = create_engine(fresh_database_url)
        await migrate(engine, "lotmeter")
        await engine.dispose()
        async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
            # Who may do what is decided before it is used.
            async with a_process(environ):
                await send(producer, orders)
                await until(watcher, READ, len(orders))
            hits = []
            for number in range(KILLS):
                share = rounds[number * ROUNDS // KILLS : (number + 1) * ROUNDS // KILLS]
                read = await watcher.fetchval(READ)
                await send(producer, [each for uses in share for each in uses])
                async with a_process(environ) as process:
                    await until_more(watcher, read)
                    hits.append(await kill(watcher, process, draw, inside=number % 2 == 0))
            async with a_process(environ):
                await until(watcher, READ, len(lines))
                await until(watcher, SENT, True)
        messages = await told_on(broker, settings.notices_topic)
    kept = await watcher.fetchval("SELECT count(*) FROM lotmeter.notice")
    await watcher.close()

    print(f"killed inside a transaction: {hits}; sent again: {len(messages) - kept}")
    expected = {
        (channel, orjson.dumps(notice, option=orjson.OPT_SORT_KEYS))
        for channel, books in memory.document()["channels"].items()
        for notice in books["notices"]
    }
    told = {
        event["id"]: (event["subject"], orjson.dumps(event["data"], option=orjson.OPT_SORT_KEYS))
        for event in messages
    }
    assert True in hits
    assert False in hits
    assert kept == len(expected)
    assert len(told) == len(expected)
    assert set(told.values()) == expected
