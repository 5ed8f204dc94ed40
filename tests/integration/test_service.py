"""The whole service keeps the books right while members come, go and are told to stop."""

import asyncio
import os
import secrets
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.service import serve
from consumer.settings import Settings
from metering.storage.database import create_engine
from metering.storage.schema import migrate

PARTITIONS = 4
CHANNELS = 20
PATIENCE_SECONDS = 60
NOW = datetime.now(UTC)


@pytest_asyncio.fixture
async def environ(broker, fresh_database_url):
    """Set everything that a process needs, with topics and books of its own."""
    name = secrets.token_hex(4)
    topics = {
        "USAGE_TOPICS": f"{name}.workflow,{name}.message",
        "COMMANDS_TOPIC": f"{name}.commands",
        "NOTICES_TOPIC": f"{name}.notices",
        "STATEMENTS_TOPIC": f"{name}.statements",
        "DEAD_LETTERS_TOPIC": f"{name}.dead-letters",
    }
    names = ",".join(topics.values()).split(",")
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in names])
    await admin.close()
    variables = {
        "KAFKA_SERVERS": broker,
        "DATABASE_URL": fresh_database_url,
        "GROUP": name,
        "HTTP_ADDRESS": "127.0.0.1:0",
        # The embedded broker lets the first member wait for half of it.
        "SESSION_TIMEOUT_SECONDS": "2",
        "IDLE_MARK_SECONDS": "1",
        **topics,
    }
    return {f"LOTMETER_{variable}": value for variable, value in variables.items()}


@pytest_asyncio.fixture
async def books(environ):
    """Yield a connection to books that are ready."""
    settings = Settings.from_environ(environ)
    url = settings.database_url.get_secret_value()
    engine = create_engine(url, schema=settings.database_schema)
    await migrate(engine, settings.database_schema)
    await engine.dispose()
    connection = await asyncpg.connect(url)
    await connection.execute(f"SET search_path = {settings.database_schema}")
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def send(broker):
    async with AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5) as producer:

        async def send(topic, events):
            for event in events:
                value = event if isinstance(event, bytes) else orjson.dumps(event)
                key = b"x" if isinstance(event, bytes) else event["subject"].encode()
                await producer.send(topic, value, key=key)
            await producer.flush()

        yield send


def an_event(kind, channel, event_id, data, **at):
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/test",
        "type": kind,
        "subject": channel,
        "time": (NOW - timedelta(**at)).isoformat(),
        "data": data,
    }


def registrations():
    data = {"plan": "enterprise", "time_zone": "Asia/Seoul", "billing_day": 1}
    return [
        an_event("channel.registered", f"c-{number}", f"r-{number}", data, days=3)
        for number in range(CHANNELS)
    ]


def workflows(name, number, *, actions=3):
    return [
        an_event(
            "workflow.executed", f"c-{n % CHANNELS}", f"{name}-{n}", {"actions": actions}, seconds=n
        )
        for n in range(number)
    ]


async def offsets_done(books):
    return await books.fetchval("SELECT coalesce(sum(next_offset - start_offset), 0) FROM position")


async def becomes_true(claim):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await claim():  # Claims are about the database.
            await asyncio.sleep(0.05)


async def everything_read(books, number):
    async def is_read():
        return await offsets_done(books) >= number

    await becomes_true(is_read)
    assert await offsets_done(books) == number


@asynccontextmanager
async def a_member(environ, **changes):
    stop = asyncio.Event()
    settings = Settings.from_environ({**environ, **changes})
    serving = asyncio.create_task(serve(settings, stop=stop))
    try:
        yield serving
    finally:
        stop.set()
        await serving


async def outcomes(books):
    row = await books.fetchrow(
        "SELECT sum(applied), sum(duplicate), sum(parked), sum(rejected),"
        " sum(to_offset - from_offset) FROM batch"
    )
    return tuple(int(value) for value in row)


async def tallied(books):
    quantity = await books.fetchval("SELECT sum(quantity) FROM tally WHERE product = 'workflow'")
    return int(quantity) // 1_000


async def read_all(broker, topic, number):
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=broker, auto_offset_reset="earliest"
    ) as reader:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [await reader.getone() for _ in range(number)]


async def test_members_that_come_and_go_keep_the_books_right(environ, books, send, broker):
    workflow, message = environ["LOTMETER_USAGE_TOPICS"].split(",")
    commands, dead = environ["LOTMETER_COMMANDS_TOPIC"], environ["LOTMETER_DEAD_LETTERS_TOPIC"]
    first = workflows("a", 3_000)
    second = workflows("b", 3_000)
    bad = [b"{not JSON", b"", b"[]"] * 10
    small = {"LOTMETER_BATCH_RECORDS_MAX": "500"}

    async with a_member(environ, **small):
        await send(commands, registrations())
        await everything_read(books, CHANNELS)
        await send(workflow, [*first, *bad])
        async with a_member(environ, **small):
            # Copies on another topic, which the other member may read.
            await send(message, [*second, *first[:1_000]])
            await asyncio.sleep(2)
        await send(workflow, [*second[2_000:], *first[:500]])
        sent = CHANNELS + 3_000 + 30 + 3_000 + 1_000 + 1_000 + 500
        await everything_read(books, sent)

    applied, duplicate, parked, rejected, offsets = await outcomes(books)
    assert (applied, duplicate, parked) == (CHANNELS + 6_000, 2_500, 0)
    assert rejected == len(bad)
    assert offsets == sent
    assert await tallied(books) == 6_000 * 3
    chain = await books.fetch(
        "SELECT position, from_offset, lag(to_offset) OVER w AS before FROM batch"
        " WINDOW w AS (PARTITION BY position ORDER BY from_offset)"
    )
    assert all(row["before"] in (None, row["from_offset"]) for row in chain)
    letters = await read_all(broker, dead, len(bad))
    assert Counter(letter.value for letter in letters) == Counter(bad)
    assert {dict(letter.headers)["lotmeter-reason"] for letter in letters} == {b"malformed"}
    assert await books.fetchval("SELECT count(*) FROM outbox") == 0


@asynccontextmanager
async def a_process(environ):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "consumer", "run"),
        env={**os.environ, **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line_with(process, event):
    while line := await process.stderr.readline():
        entry = orjson.loads(line)
        if entry["event"] == event:
            return entry
    pytest.fail(f"the process ended without {event}")


async def ask(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer


async def is_told(port, path, words):
    status, text = await ask(port, path)
    return status == 200 and words in text


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_is_told_to_stop_finishes_and_leaves(environ, books, send, ending):
    workflow, _ = environ["LOTMETER_USAGE_TOPICS"].split(",")
    await send(environ["LOTMETER_COMMANDS_TOPIC"], registrations())
    async with a_process(environ) as process:
        port = (await line_with(process, "starting"))["http_port"]
        await everything_read(books, CHANNELS)
        await send(workflow, workflows("a", 2_000))
        await everything_read(books, CHANNELS + 2_000)
        assert (await ask(port, "/readyz"))[0] == 200
        assert (await ask(port, "/livez"))[0] == 200
        counted = f'lotmeter_records_total{{outcome="applied",topic="{workflow}"}} 2000.0'
        await becomes_true(lambda: is_told(port, "/metrics", counted))
        await send(workflow, workflows("b", 20_000))

        process.send_signal(ending)

        async with asyncio.timeout(20):
            assert await process.wait() == 0
    applied, duplicate, parked, rejected, offsets = await outcomes(books)
    assert applied == offsets
    assert (duplicate, parked, rejected) == (0, 0, 0)
    assert await tallied(books) == (offsets - CHANNELS) * 3
    # Whoever comes next goes on where it stopped.
    async with a_member(environ):
        await everything_read(books, CHANNELS + 22_000)
    assert await tallied(books) == 22_000 * 3


async def test_a_process_can_be_stopped_before_the_group_has_let_it_in(environ, books):
    assert books
    async with a_process({**environ, "LOTMETER_SESSION_TIMEOUT_SECONDS": "60"}) as process:
        port = (await line_with(process, "starting"))["http_port"]
        await asyncio.sleep(1)
        assert (await ask(port, "/readyz"))[0] == 503

        process.send_signal(signal.SIGTERM)

        async with asyncio.timeout(15):
            assert await process.wait() == 0


async def test_a_process_that_cannot_start_says_what_to_do_and_no_secret(environ, broker):
    canary = "hunter2-canary"
    wrong = [
        (environ, "run lotmeter migrate"),
        (
            {**environ, "LOTMETER_DATABASE_URL": f"postgresql://u:{canary}@127.0.0.1:1/books"},
            "the database does not answer",
        ),
    ]
    for variables, words in wrong:
        async with a_process(variables) as process:
            _, errors = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == 1
        assert words in errors.decode()
        assert canary not in errors.decode()
        assert b"Traceback" not in errors
    assert broker


async def test_a_process_without_kafka_says_so(environ, books):
    assert books
    async with a_process({**environ, "LOTMETER_KAFKA_SERVERS": "127.0.0.1:1"}) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 1
    assert "Kafka does not answer at 127.0.0.1:1" in errors.decode()
