"""Everything one fault needs: topics and books of its own, members, traffic, and the judge."""

import asyncio
import contextlib
import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
from aiokafka.errors import KafkaError

from tests.faults.checker import judge
from tests.faults.members import Member, command_line
from tests.faults.reading import ends
from tests.faults.servers import producing
from tests.faults.traffic import Traffic

USAGE = ("usage.mu", "usage.seat", "usage.workflow", "usage.message")
COMMANDS = "billing.commands"
OUTGOING = {
    "notices": "billing.notices",
    "statements": "billing.statements",
    "dead_letters": "usage.dead-letters",
}
CATCH_UP_SECONDS_MAX = 240


@dataclass
class Report:
    """What a fault came to."""

    events: int = 0
    lost: int = 0
    double: int = 0
    kills: int = 0
    failpoints: dict = field(default_factory=dict)
    recovery_seconds: float = 0.0
    hits: dict = field(default_factory=dict)  # What proves that the fault was there.


class World:
    """One fault's own part of the servers."""

    def __init__(self, servers, seed, *, partitions=4, settings=None, where=""):
        self.servers, self.seed = servers, seed
        self.broker, self.postgres = servers.broker, servers.postgres
        self.name = f"w{secrets.token_hex(4)}"
        self.partitions = partitions
        self.report = Report()
        self.traffic = Traffic(seed)
        self.draw = self.traffic.draw
        self.members = []
        self.folder = servers.home / self.name
        self.folder.mkdir()
        self._given = settings or {}
        self._where = where
        self._stack = contextlib.AsyncExitStack()
        self.producer = None
        self.sent = 0
        self.outgoing = {name: self.real(topic) for name, topic in OUTGOING.items()}

    # Names

    def real(self, topic):
        """Name a topic of the rules as it is called in this world."""
        return f"{self.name}.{topic}"

    def told(self, topic):
        """Name a topic of this world as the rules call it."""
        return topic.removeprefix(f"{self.name}.")

    @property
    def topics(self):
        """The topics that members read."""
        return [self.real(topic) for topic in (*USAGE, COMMANDS)]

    @property
    def wire(self):
        """The wire between members and the broker."""
        return self.servers.to_broker[0]

    @property
    def line(self):
        """The line between members and the database."""
        return self.servers.to_postgres[0]

    @property
    def apart(self):
        """Settings of a member that has a wire and a line of its own."""
        _, wire = self.servers.to_broker
        _, line = self.servers.to_postgres
        return {
            "KAFKA_SERVERS": f"127.0.0.1:{wire.port}",
            "DATABASE_URL": self.postgres.url_of(self.name, port=line.port),
        }

    @property
    def settings(self):
        """What members are told; through the wires."""
        return {
            "KAFKA_SERVERS": f"127.0.0.1:{self.wire.port}",
            "DATABASE_URL": self.postgres.url_of(self.name, port=self.line.port),
            "GROUP": self.name,
            "USAGE_TOPICS": ",".join(self.topics[:-1]),
            "COMMANDS_TOPIC": self.topics[-1],
            "NOTICES_TOPIC": self.outgoing["notices"],
            "STATEMENTS_TOPIC": self.outgoing["statements"],
            "DEAD_LETTERS_TOPIC": self.outgoing["dead_letters"],
            "HTTP_ADDRESS": "127.0.0.1:0",
            "SESSION_TIMEOUT_SECONDS": 3,
            "REBALANCE_TIMEOUT_SECONDS": 5,
            "IDLE_MARK_SECONDS": 1,
            "KAFKA_COMMIT_SECONDS": 1,
            **self._given,
        }

    # Life

    async def __aenter__(self):
        await self.postgres.tell(f"CREATE DATABASE {self.name} {self._where}")
        status, _, err = await command_line(self.settings, "migrate")
        assert status == 0, err
        partitions = ["--partitions", str(self.partitions)]
        status, _, err = await command_line(self.settings, "topics", *partitions)
        assert status == 0, err
        self.producer = await self._stack.enter_async_context(producing(self.broker.address))
        return self

    async def __aexit__(self, *_):
        for member in self.members:
            with contextlib.suppress(AssertionError):
                await member.die()
        for proxy in (*self.servers.to_broker, *self.servers.to_postgres):
            proxy.heal()
            proxy.lose_next.clear()
        with contextlib.suppress(Exception):
            await self._stack.aclose()
        # A broker that was killed looks through all it has before it starts again.
        with contextlib.suppress(KafkaError, OSError):
            async with self.broker.admin() as admin:
                await admin.delete_topics([*self.topics, *self.outgoing.values()])

    def add_member(self, **settings):
        """Add a member that is not started yet."""
        member = Member(f"member-{len(self.members)}", {**self.settings, **settings}, self.folder)
        self.members.append(member)
        return member

    async def start(self, *, members=2, channels=12, **settings):
        """Register channels, start members, and wait until past cycles are closed."""
        await self.send(self.traffic.register(channels))
        added = [self.add_member(**settings) for _ in range(members)]
        for member in added:
            member.keep_running()
        await self.caught_up()
        await self.closed()
        self.traffic.settled = list(self.traffic.channels)
        return added

    # Sending

    async def send(self, messages):
        """Send messages and wait until the broker has them."""
        waiting = [
            await self.producer.send(
                self.real(message.topic), message.value, key=message.key,
                partition=message.partition, headers=list(message.headers),
            )
            for message in messages
        ]  # fmt: skip
        await asyncio.gather(*waiting)
        self.sent += len(waiting)

    @contextlib.asynccontextmanager
    async def flowing(self, *, per_second=300, registering=False):
        """Let usage flow while the block runs; `registering` brings new channels all the time."""
        is_over = asyncio.Event()

        async def flow():
            while not is_over.is_set():
                if registering:
                    await self.send(list(self.traffic.register(1)))
                await self.send(list(self.traffic.usage(max(1, per_second // 4))))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(is_over.wait(), 0.25)

        task = asyncio.create_task(flow())
        try:
            yield
        finally:
            is_over.set()
            await asyncio.wait_for(task, 60)

    # Waiting

    @contextlib.asynccontextmanager
    async def books(self):
        """Yield a connection to the books."""
        connection = await asyncpg.connect(self.postgres.url_of(self.name), timeout=20)
        try:
            await connection.execute("SET search_path = lotmeter")
            yield connection
        finally:
            connection.terminate()

    async def ask(self, question, *values):
        """Ask the books for one value."""
        async with self.books() as connection:
            return await connection.fetchval(question, *values)

    async def positions(self):
        """Say how far each partition is in the books."""
        async with self.books() as connection:
            rows = await connection.fetch(
                "SELECT topic, topic_partition, next_offset FROM position WHERE halted IS NULL"
            )
        return {(row[0], row[1]): row[2] for row in rows}

    async def caught_up(self, seconds=CATCH_UP_SECONDS_MAX, *, but=()):
        """Wait until everything that was sent is in the books; returns how long it took."""
        since = time.monotonic()
        last = await ends(self.broker.address, self.topics)
        missing = {}
        while time.monotonic() - since < seconds:
            for member in self.members:
                self.no_bugs(member)
            with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
                found = await self.positions()
                missing = {
                    tp: (found.get(tp), end)
                    for tp, end in last.items()
                    if found.get(tp, 0) < end and tp not in but
                }
                if not missing:
                    return time.monotonic() - since
            await asyncio.sleep(0.1)
        raise AssertionError(f"not read within {seconds} seconds: {missing} {self.last_words()}")

    async def overdue(self, *, ahead=timedelta(0)):
        """Count the channels of which something is due."""
        at = int((time.time() + ahead.total_seconds()) * 1_000_000)
        return await self.ask("SELECT count(*) FROM channel WHERE due_at <= $1", at)

    async def closed(self, seconds=CATCH_UP_SECONDS_MAX):
        """Wait until nothing is due, and no cycle can be closed."""
        overdue = "SELECT count(*) FROM channel WHERE closes_at <= $1 OR due_at <= $1"
        since = time.monotonic()
        while await self.ask(overdue, int(time.time() * 1_000_000)):
            if time.monotonic() - since > seconds:
                raise AssertionError(
                    f"still due after {seconds} seconds: {await self._what_is_due()}"
                )
            await asyncio.sleep(0.2)

    async def _what_is_due(self):
        async with self.books() as books:
            channels = await books.fetch(
                "SELECT channel, due_at, closes_at FROM channel ORDER BY due_at LIMIT 2"
            )
            behind = await books.fetch(
                "SELECT topic, topic_partition, owner, epoch, next_offset, read_up_to, halted"
                " FROM position ORDER BY read_up_to LIMIT 3"
            )
        return [*map(dict, channels), *map(dict, behind), time.time(), self.last_words()]

    async def unsent(self):
        """Say how many messages wait in the outbox."""
        return await self.ask("SELECT count(*) FROM outbox")

    async def recovered(self, seconds=CATCH_UP_SECONDS_MAX, *, but=()):
        """Wait until all is read, settled and said, and note how long reading it took."""
        took = await self.caught_up(seconds, but=but)
        self.report.recovery_seconds = max(self.report.recovery_seconds, took)
        await self.closed()
        since = time.monotonic()
        while await self.unsent():
            if time.monotonic() - since > seconds:
                raise AssertionError(f"{await self.unsent()} messages wait in the outbox")
            await asyncio.sleep(0.2)

    # Judging

    def hit(self, name, times):
        """Note a proof that the fault was there: it must have been."""
        self.report.hits[name] = self.report.hits.get(name, 0) + int(times)

    def logged(self, event, **fields):
        """Count what members told of an event."""
        return sum(member.count(event, **fields) for member in self.members)

    def last_words(self):
        """Quote the ends of the members' logs."""
        return [
            f"{member.name}: {member.log.read_text(errors='replace')[-400:]}"
            for member in self.members
        ]

    @staticmethod
    def no_bugs(member):
        """No fault is a reason for what the service itself calls a bug."""
        for line in member.lines(since_start=True):
            if line.get("event") == "bug":
                raise AssertionError(f"{member.name} found a bug: {json.dumps(line)[:2000]}")

    async def judge(self, *, allow_unsent=False, **how):
        """Compare books and topics, and have the books prove themselves."""
        for member in self.members:
            assert not member.count("bug"), [x for x in member.lines() if x["event"] == "bug"]
        async with self.books() as connection:
            verdict = await judge(
                self.broker.address, connection, topics=self.topics, outgoing=self.outgoing,
                topic_of=self.told, allow_unsent=allow_unsent, **how,
            )  # fmt: skip
        report = self.report
        report.events += verdict.events
        report.lost += verdict.lost
        report.double += verdict.double
        assert not verdict.differences, str(verdict)
        status, out, err = await command_line(self.settings, "verify", "--full", "--json")
        assert status == 0, f"{out[:1000]} {err}"
        assert all(report.hits.values()), f"the fault was not hit: {report.hits}"
