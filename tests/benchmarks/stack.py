"""The servers that are measured with: embedded ones, or those that are named."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
from aiokafka import AIOKafkaProducer

from consumer import topics
from consumer.embedded import embedded_broker, embedded_postgres
from consumer.settings import PREFIX, Settings
from metering.storage import schema
from metering.storage.database import create_engine
from tests.benchmarks import processes
from tests.benchmarks.workload import CLOSING_HOURS, PARTITIONS, TOPICS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from tests.benchmarks.workload import Chunk, Record

BATCH_BYTES = 256 * 1_024


@dataclass
class Stack:
    """A broker and a database server, with the processes that they are made of."""

    kafka_servers: str
    database_url: str  # Of somebody who may make databases.
    roots: dict[str, list[int]]  # Processes on this machine, by role.

    def url_of(self, database: str) -> str:
        """Give the URL of one database."""
        return f"{self.database_url.rpartition('/')[0]}/{database}"

    def environ(self, database: str, *, prefix: str = "usage", commands: str) -> dict[str, str]:
        """Say how a member is set: as it ships, but for what the benchmark is about."""
        return {
            f"{PREFIX}KAFKA_SERVERS": self.kafka_servers,
            f"{PREFIX}DATABASE_URL": self.url_of(database),
            f"{PREFIX}HTTP_ADDRESS": "127.0.0.1:0",
            f"{PREFIX}USAGE_TOPICS": ",".join(f"{prefix}.{topic}" for topic in TOPICS),
            f"{PREFIX}COMMANDS_TOPIC": commands,
            f"{PREFIX}CLOSING_HOURS": str(CLOSING_HOURS),
            # The embedded broker waits for half of it before it lets the first member in.
            f"{PREFIX}SESSION_TIMEOUT_SECONDS": "6",
            f"{PREFIX}LOG_LEVEL": "warning",
        }

    @contextlib.asynccontextmanager
    async def administrator(self) -> AsyncIterator[asyncpg.Connection]:
        """Connect as the one who makes databases."""
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def create_database(self, name: str, *, template: str | None = None) -> None:
        """Make a database, empty or as another one is; and let no work of before disturb it."""
        async with self.administrator() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            copied = f"TEMPLATE {template} STRATEGY FILE_COPY" if template else ""
            await connection.execute(f"CREATE DATABASE {name} {copied}")
            await connection.execute("CHECKPOINT")

    async def drop_database(self, name: str) -> None:
        """Drop a database."""
        async with self.administrator() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def migrate(self, database: str) -> None:
        """Lay out the books."""
        engine = create_engine(self.url_of(database), connections=1)
        try:
            await schema.migrate(engine, "lotmeter")
        finally:
            await engine.dispose()

    async def create_topics(self, environ: dict[str, str]) -> None:
        """Create the topics that are missing."""
        settings = Settings.from_environ(environ)
        await topics.create_missing(settings, partitions=PARTITIONS, replication=1)

    async def produce(self, chunks: Iterable[Chunk]) -> None:
        """Send records in batches that are made here: one future a batch, not one a record."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka_servers,
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=4 * BATCH_BYTES,
        )
        await producer.start()
        try:
            for chunk in chunks:
                underway = [
                    await producer.send_batch(batch, topic, partition=partition)
                    for (topic, partition), records in chunk.items()
                    for batch in batches_of(producer, records)
                ]
                for sent in underway:
                    await sent
        finally:
            await producer.stop()


def batches_of(producer: AIOKafkaProducer, records: list[Record]) -> Iterator[object]:
    """Pack records."""
    batch = producer.create_batch()
    for key, value in records:
        if batch.append(key=key, value=value, timestamp=None) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    if batch.record_count():
        yield batch


@contextlib.asynccontextmanager
async def stack(*, kafka_servers: str | None, database_url: str | None) -> AsyncIterator[Stack]:
    """Start what is not named."""
    async with contextlib.AsyncExitStack() as servers:
        roots: dict[str, list[int]] = {"postgres": [], "broker": []}
        if database_url is None:
            before = set(processes.children_named("postgres"))
            database_url = await servers.enter_async_context(embedded_postgres())
            roots["postgres"] = [*set(processes.children_named("postgres")) - before]
        if kafka_servers is None:
            kafka_servers = await servers.enter_async_context(embedded_broker())
            roots["broker"] = processes.children_named("tansu")
        yield Stack(kafka_servers, database_url, roots)


def own_environ(environ: dict[str, str]) -> dict[str, str]:
    """Give a member the environment of this process, and its settings."""
    return {**os.environ, **environ}
