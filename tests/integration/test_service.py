"""The whole service keeps the books right while members come, go and are told to stop."""

import asyncio
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from consumer import service
from consumer.settings import Settings
from tests.members import a_member, a_process, ask, becomes_true, line_with, read_all

CHANNELS = 20
NOW = datetime.now(UTC)


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


async def everything_read(books, number):
    async def is_read():
        return await offsets_done(books) >= number

    await becomes_true(is_read)
    assert await offsets_done(books) == number


async def outcomes(books):
    row = await books.fetchrow(
        "SELECT sum(applied), sum(duplicate), sum(parked), sum(rejected),"
        " sum(to_offset - from_offset) FROM batch"
    )
    return tuple(int(value) for value in row)


async def tallied(books):
    quantity = await books.fetchval("SELECT sum(quantity) FROM tally WHERE product = 'workflow'")
    return int(quantity) // 1_000


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
    assert "no broker answers at 127.0.0.1:1" in errors.decode()


async def test_the_client_does_not_wait_for_long_before_it_fetches_more(environ, send):
    topic = environ["LOTMETER_USAGE_TOPICS"].split(",")[0]
    await send(topic, workflows("a", 20))
    consumer = service._consumer(Settings.from_environ(environ))
    consumer.subscribe([topic])
    async with service._membership(consumer, asyncio.Event()):
        client = consumer._fetcher
        for partition in await becomes_assigned(consumer):
            consumer.seek(partition, 0)
        await becomes_true(lambda: as_found(client._records))
        assert {held._backoff for held in client._records.values()} == {service.HOLDING_SECONDS}


async def becomes_assigned(consumer):
    await becomes_true(lambda: as_found(consumer.assignment()))
    return consumer.assignment()


async def as_found(what):
    return bool(what)
