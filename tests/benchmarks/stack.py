"""The servers that are measured with: embedded ones, or those that are named."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from consumer import embedded, topics
from consumer.settings import PREFIX, Settings
from metering.storage import schema
from metering.storage.database import create_engine
from tests.benchmarks import apache_kafka, processes
from tests.benchmarks.population import CLOSING_HOURS
from tests.benchmarks.workload import TOPICS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from tests.benchmarks.population import Chunk, Record

BATCH_BYTES = 256 * 1_024

# As in docker-compose.yml: as much as PostgreSQL has by itself is for small machines, and holds no
# index of a month.
POSTGRES_MEMORY = {"shared_buffers": "1GB", "max_wal_size": "8GB"}

_WARM = """
SELECT pg_prewarm(oid) FROM pg_class
WHERE relkind = 'i' AND relnamespace = to_regnamespace('lotmeter')
"""


@dataclass(frozen=True)
class Stack:
    """A broker and a database server, with the processes that they are made of."""

    kafka_servers: str
    database_url: str  # Of somebody who may make databases.
    broker: str  # What it is, for the tables.
    roots: dict[str, list[int]]  # Processes on this machine, by role.
    # In the names of all that is made, so that on given servers nobody else's is touched.
    mark: str = field(default_factory=lambda: f"bench_{secrets.token_hex(4)}")

    def url_of(self, database: str) -> str:
        """Give the URL of one database."""
        return f"{self.database_url.rpartition('/')[0]}/{database}"

    def environ(self, database: str, *, stream: str, commands: str) -> dict[str, str]:
        """Say how a member is set: as it ships, but for what the benchmark is about."""
        written = {
            f"{PREFIX}{name.upper()}_TOPIC": f"{self.mark}.{name}"
            for name in ("notices", "statements", "dead_letters")
        }
        return {
            **written,
            f"{PREFIX}GROUP": self.mark,
            f"{PREFIX}KAFKA_SERVERS": self.kafka_servers,
            f"{PREFIX}DATABASE_URL": self.url_of(database),
            f"{PREFIX}HTTP_ADDRESS": "127.0.0.1:0",
            f"{PREFIX}USAGE_TOPICS": ",".join(f"{stream}.{topic}" for topic in TOPICS),
            f"{PREFIX}COMMANDS_TOPIC": commands,
            f"{PREFIX}CLOSING_HOURS": str(CLOSING_HOURS),
            # The embedded broker waits for half of it before it lets the first member in.
            f"{PREFIX}SESSION_TIMEOUT_SECONDS": "6",
            f"{PREFIX}LOG_LEVEL": "warning",
        }

    @contextlib.asynccontextmanager
    async def database(self, what: str, *, template: str | None = None) -> AsyncIterator[str]:
        """Make a database, empty or as another one is, for as long as it is needed."""
        name = f"{self.mark}_{what}"
        connection = await asyncpg.connect(self.database_url)
        try:
            copied = f"TEMPLATE {template} STRATEGY FILE_COPY" if template else ""
            await connection.execute(f"CREATE DATABASE {name} {copied}")
            try:
                # What was written before is not to be paid for by what is measured.
                await connection.execute("CHECKPOINT")
                if template:
                    await _warm(self.url_of(name))
                yield name
            finally:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            await connection.close()

    async def migrate(self, database: str) -> None:
        """Lay out the books."""
        engine = create_engine(self.url_of(database), connections=1)
        try:
            await schema.migrate(engine, "lotmeter")
        finally:
            await engine.dispose()

    async def create_topics(self, environ: dict[str, str], partitions: int) -> None:
        """Create the topics that are missing."""
        settings = Settings.from_environ(environ)
        await topics.create_missing(settings, partitions=partitions, replication=1)

    async def delete_topics(self) -> None:
        """Delete the topics that were created."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka_servers)
        await admin.start()
        try:
            made = [topic for topic in await admin.list_topics() if topic.startswith(self.mark)]
            await admin.delete_topics(made)
        finally:
            await admin.close()

    @contextlib.asynccontextmanager
    async def producer(self) -> AsyncIterator[AIOKafkaProducer]:
        """Yield a producer for batches of `batches_of`."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka_servers,
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=4 * BATCH_BYTES,
        )
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def produce(self, chunks: Iterable[Chunk]) -> None:
        """Send records, and wait until the broker has them."""
        async with self.producer() as producer:
            for chunk in chunks:
                underway = [
                    await producer.send_batch(batch, topic, partition=partition)
                    for (topic, partition), records in chunk.items()
                    for batch in batches_of(producer, records)
                ]
                for sent in underway:
                    await sent


def batches_of(producer: AIOKafkaProducer, records: list[Record]) -> Iterator[object]:
    """Pack records: a batch has one future, records would have one each."""
    batch = producer.create_batch()
    for key, value in records:
        if batch.append(key=key, value=value, timestamp=None) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    if batch.record_count():
        yield batch


@contextlib.asynccontextmanager
async def running_database(
    url: str | None, *, settings: dict[str, str] | None = None
) -> AsyncIterator[tuple[str, list[int]]]:
    """Start PostgreSQL unless one is named; yields its URL and its processes."""
    if url is not None:
        yield url, []
        return
    before = {**embedded.POSTGRES_SETTINGS}
    embedded.POSTGRES_SETTINGS.update({**POSTGRES_MEMORY, **(settings or {})})
    known = set(processes.children_named("postgres"))
    async with embedded.embedded_postgres() as started:
        embedded.POSTGRES_SETTINGS.clear()
        embedded.POSTGRES_SETTINGS.update(before)
        yield started, sorted(set(processes.children_named("postgres")) - known)


@contextlib.asynccontextmanager
async def running_stack(
    servers: str | None, database: tuple[str, list[int]], *, is_apache: bool
) -> AsyncIterator[Stack]:
    """Start a broker unless one is named, beside a database server."""
    url, postgres = database
    if servers is not None:
        stack = Stack(servers, url, "given", {"postgres": postgres, "broker": []})
        try:
            yield stack
        finally:
            await stack.delete_topics()
    elif is_apache:
        async with apache_kafka.running() as (started, running):
            yield Stack(started, url, "Apache Kafka", {"postgres": postgres, "broker": running})
    else:
        known = set(processes.children_named("tansu"))
        async with embedded.embedded_broker() as started:
            running = sorted(set(processes.children_named("tansu")) - known)
            yield Stack(started, url, "embedded", {"postgres": postgres, "broker": running})


async def _warm(url: str) -> None:
    """Have the indexes of a copied database in memory, where those of one in use are."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
        await connection.execute(_WARM)
    finally:
        await connection.close()
