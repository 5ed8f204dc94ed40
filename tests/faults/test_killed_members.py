"""Members are killed while events flow: the books are those of a run that nobody disturbed."""

import asyncio
import contextlib
import os
import random
import secrets
import signal
import sys

import asyncpg
from aiokafka import AIOKafkaProducer

from consumer import topics
from consumer.embedded import embedded_broker
from consumer.settings import Settings
from consumer.traffic import Traffic
from consumer.wall_clock import now_instant
from metering.storage import book_store, schema
from metering.storage.database import create_engine
from metering.verification import verify

EVENTS = 50_000
CHANNELS = 60
KILLS = 10
HITS_MIN = 8

# How often a member is stopped in vain, and how often it is looked at before, before it is killed
# wherever it is.
ATTEMPTS_MAX = 20
LOOKS_MAX = 5_000
READ_SECONDS = 240
READ = "SELECT coalesce(sum(next_offset - start_offset), 0)::bigint FROM {schema}.position"


class Member:
    """One process of the group, with a database user of its own: so its transactions are known."""

    def __init__(self, environ, user, password, url):
        address = url.rpartition("@")[2]
        self.user = user
        self._environ = {
            **os.environ,
            **environ,
            "LOTMETER_DATABASE_URL": f"postgresql://{user}:{password}@{address}",
        }
        self.process = None

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "consumer", "run", env=self._environ
        )

    async def stop(self):
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), 40)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


async def open_transactions(watcher, user):
    return await watcher.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND backend_xid IS NOT NULL", user
    )


async def kill_in_a_transaction(watcher, member, draw):
    """Stop a member at a random point, look whether a transaction is open, and kill it if so."""
    hit = False
    for _ in range(ATTEMPTS_MAX):
        for _ in range(LOOKS_MAX):
            if await open_transactions(watcher, member.user):
                break
            await asyncio.sleep(0.001)
        await asyncio.sleep(draw.random() * 0.004)
        member.process.send_signal(signal.SIGSTOP)
        hit = bool(await open_transactions(watcher, member.user))
        if hit:
            break
        member.process.send_signal(signal.SIGCONT)
    member.process.kill()
    await member.process.wait()
    return hit


async def send(broker, messages, *, pause=None):
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=5)
    await producer.start()
    count = 0
    try:
        waiting = []
        for message in messages:
            waiting.append(await producer.send(message.topic, message.value, key=message.key))
            count += 1
            if len(waiting) == 500:
                await asyncio.gather(*waiting)
                waiting.clear()
                if pause is not None:
                    await pause()
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()
    return count


async def until_closed(watcher, name):
    """Wait until the past cycles are closed: the traffic knows what is late from then on."""
    overdue = f"SELECT count(*) FROM {name}.channel WHERE closes_at <= $1 OR due_at <= $1"
    async with asyncio.timeout(READ_SECONDS):
        while await watcher.fetchval(overdue, now_instant()):
            await asyncio.sleep(0.2)


async def until_read(watcher, name, records):
    async with asyncio.timeout(READ_SECONDS):
        while await watcher.fetchval(READ.format(schema=name)) < records:
            await asyncio.sleep(0.2)


async def books_of(url, name, settings):
    engine = create_engine(url, schema=name)
    try:
        documents = await book_store.read_all(engine, settings.read_catalog(), clock=now_instant())
        report = await verify(engine, settings.read_catalog(), full=True)
        totals = await book_store.totals(engine)
    finally:
        await engine.dispose()
    # Notices may leave out a crossing that was undone within one batch.
    books = {channel: {**books, "notices": None} for channel, books in documents.items()}
    return books, totals, report


async def test_books_are_those_of_an_undisturbed_run_when_members_are_killed(fresh_database_url):
    seed = int(os.environ.get("LOTMETER_TEST_SEED", secrets.randbits(32)))
    print(f"seed {seed}")
    draw = random.Random(seed)
    watcher = await asyncpg.connect(fresh_database_url)
    password = secrets.token_hex(8)
    users = [f"member_{secrets.token_hex(4)}" for _ in range(3)]
    for user in users:
        await watcher.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'")
    async with embedded_broker() as broker, contextlib.AsyncExitStack() as stack:
        environ = {
            "LOTMETER_KAFKA_SERVERS": broker,
            "LOTMETER_DATABASE_URL": fresh_database_url,
            "LOTMETER_HTTP_ADDRESS": "127.0.0.1:0",
            "LOTMETER_SESSION_TIMEOUT_SECONDS": "6",
            "LOTMETER_IDLE_MARK_SECONDS": "1",
            "LOTMETER_LOG_LEVEL": "error",
        }
        settings = Settings.from_environ(environ)
        await topics.create_missing(settings, partitions=4, replication=1)
        for name in ("lotmeter", "undisturbed"):
            engine = create_engine(fresh_database_url, schema=name)
            await schema.migrate(engine, name)
            await engine.dispose()
        traffic = Traffic(
            events=EVENTS,
            channels=CHANNELS,
            seed=seed,
            now=now_instant(),
            catalog=settings.read_catalog(),
        )
        members = [Member(environ, user, password, fresh_database_url) for user in users[:2]]
        for member in members:
            await member.start()
            stack.push_async_callback(member.stop)
        quiet = Member(
            {**environ, "LOTMETER_GROUP": "undisturbed", "LOTMETER_DATABASE_SCHEMA": "undisturbed"},
            users[2],
            password,
            fresh_database_url,
        )
        await quiet.start()
        stack.push_async_callback(quiet.stop)
        await send(broker, traffic.commands())
        for name in ("lotmeter", "undisturbed"):
            await until_read(watcher, name, traffic.manifest.records)
            await until_closed(watcher, name)

        killing = asyncio.Event()

        async def flow():
            # Slowly enough that events flow from the first kill to the last.
            await asyncio.sleep(0 if killing.is_set() else 1.2)

        sending = asyncio.create_task(send(broker, traffic.usage(), pause=flow))
        hits = 0
        for number in range(KILLS):
            member = members[draw.randrange(2)]
            hit = await kill_in_a_transaction(watcher, member, draw)
            print(f"kill {number + 1} of {member.user}: transaction open {hit}")
            hits += hit
            await member.start()
            await asyncio.sleep(1 + draw.random() * 3)
        killing.set()
        await sending
        await until_read(watcher, "lotmeter", traffic.manifest.records)
        for member in members:
            await member.stop()

        await until_read(watcher, "undisturbed", traffic.manifest.records)
        await quiet.stop()

        disturbed, totals, report = await books_of(fresh_database_url, "lotmeter", settings)
        undisturbed, totals_of_quiet, report_of_quiet = await books_of(
            fresh_database_url, "undisturbed", settings
        )
    await watcher.close()

    assert hits >= HITS_MIN
    assert report.differences == []
    assert report_of_quiet.differences == []
    assert totals["records"] == traffic.manifest.records
    assert totals == totals_of_quiet == traffic.manifest.document()
    assert disturbed == undisturbed
