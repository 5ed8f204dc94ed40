"""What the libraries and servers can do at most, each thing alone: the product is held against it.

Run as a process of its own, so that what it uses is its own: prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from asyncpg.pgproto.pgproto import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS_A_TRANSACTION = 10_000

TABLE = """
CREATE TABLE event (
    key uuid PRIMARY KEY, channel text, product smallint, quantity bigint, pu bigint,
    at timestamptz, part smallint, off bigint
)
"""
BY_ARRAYS = """
INSERT INTO event SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::timestamptz[],
    $7::smallint[], $8::bigint[]
) ON CONFLICT DO NOTHING
"""
STAGE = "CREATE TEMPORARY TABLE arrived (LIKE event) ON COMMIT DELETE ROWS"
FROM_STAGE = "INSERT INTO event SELECT * FROM arrived ON CONFLICT DO NOTHING"

READ_SECONDS_MAX = 120


def rows_of(count: int, channels: int) -> list[tuple[Any, ...]]:
    """Make rows as wide as those of the product's events, with keys in no order."""
    draw = random.Random(1)
    now = datetime.now(UTC)
    return [
        (
            UUID(draw.randbytes(16)), f"channel-{draw.randrange(channels):06}", number % 8,
            draw.randrange(1, 500_000), draw.randrange(1, 50_000),
            now - timedelta(microseconds=draw.randrange(200_000_000_000)), number % 8, number // 8,
        )
        for number in range(count)
    ]  # fmt: skip


async def insert(url: str, *, rows: int, channels: int, by_copy: bool) -> float:
    """Insert identities and nothing else, over one connection; returns the seconds."""
    connection = await asyncpg.connect(url)
    await connection.execute("DROP TABLE IF EXISTS event")
    await connection.execute(TABLE)
    await connection.execute(STAGE)
    made = rows_of(rows, channels)
    batches: list[Sequence[Any]] = [
        made[start : start + ROWS_A_TRANSACTION] for start in range(0, rows, ROWS_A_TRANSACTION)
    ]
    if not by_copy:
        batches = [list(zip(*batch, strict=True)) for batch in batches]
    statement = await connection.prepare(BY_ARRAYS)
    gc.collect()
    gc.freeze()
    began = time.monotonic()
    for batch in batches:
        async with connection.transaction():
            if by_copy:
                await connection.copy_records_to_table("arrived", records=batch)
                await connection.execute(FROM_STAGE)
            else:
                await statement.fetch(*batch)
    seconds = time.monotonic() - began
    assert await connection.fetchval("SELECT count(*) FROM event") == rows
    await connection.close()
    return seconds


async def read(servers: str, *, topics: list[str], records: int) -> float:
    """Read records and do nothing with them, fetched as the product fetches; returns seconds."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_bytes=16 * 2**20,
        max_partition_fetch_bytes=2**20,
    )
    await consumer.start()
    await consumer.topics()  # Learns of their partitions.
    partitions = [
        TopicPartition(topic, partition)
        for topic in topics
        for partition in consumer.partitions_for_topic(topic)
    ]
    consumer.assign(partitions)
    await consumer.seek_to_beginning()
    count, began = 0, time.monotonic()
    async with asyncio.timeout(READ_SECONDS_MAX):
        while count < records:
            found = await consumer.getmany(timeout_ms=1_000)
            count += sum(map(len, found.values()))
    seconds = time.monotonic() - began
    await consumer.stop()
    return seconds


def main() -> None:
    """Measure one thing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["arrays", "copy", "read"])
    parser.add_argument("--database")
    parser.add_argument("--servers")
    parser.add_argument("--topics", default="")
    parser.add_argument("--channels", type=int, default=5_000)
    parser.add_argument("--records", type=int, required=True)
    told = parser.parse_args()
    if told.what == "read":
        seconds = asyncio.run(
            read(told.servers, topics=told.topics.split(","), records=told.records)
        )
    else:
        seconds = asyncio.run(
            insert(
                told.database,
                rows=told.records,
                channels=told.channels,
                by_copy=told.what == "copy",
            )
        )
    used = os.times()
    print(json.dumps({"seconds": seconds, "cpu_seconds": used.user + used.system}))


if __name__ == "__main__":
    main()
