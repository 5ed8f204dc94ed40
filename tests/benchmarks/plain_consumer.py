"""A plain consumer, written as most people would: what the product is compared with.

It claims each event by its id and adds it to a balance, one statement after the other, commits once
a poll, and then tells Kafka. No prices, lots, ledger, late events, rejects; a crash between the two
commits is harmless only because of the ids. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time

from aiokafka import AIOKafkaConsumer
from sqlalchemy import BigInteger, Column, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import create_async_engine

POLL_RECORDS = 500

metadata = MetaData()
seen = Table("seen", metadata, Column("source", Text, primary_key=True),
             Column("id", Text, primary_key=True))  # fmt: skip
balance = Table("balance", metadata, Column("channel", Text, primary_key=True),
                Column("product", Text, primary_key=True), Column("used", BigInteger))  # fmt: skip


def quantity_of(event: dict) -> int:
    data = event["data"]
    return data.get("actions") or data.get("messages") or data.get("count") or 1


async def run(servers: str, url: str, topics: list[str], seconds: float) -> tuple[int, float]:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=servers,
        group_id="plain",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=6_000,
    )
    await consumer.start()
    done, began = 0, None
    while began is None or time.monotonic() - began < seconds:
        found = await consumer.getmany(timeout_ms=1_000, max_records=POLL_RECORDS)
        if began is None:
            if not found:
                continue
            began = time.monotonic()
        async with engine.begin() as connection:
            for records in found.values():
                for record in records:
                    event = json.loads(record.value)
                    claimed = await connection.execute(
                        insert(seen)
                        .values(source=event["source"], id=event["id"])
                        .on_conflict_do_nothing()
                    )
                    if claimed.rowcount:
                        used = quantity_of(event)
                        added = insert(balance).values(
                            channel=event["subject"], product=event["type"], used=used
                        )
                        await connection.execute(
                            added.on_conflict_do_update(
                                index_elements=["channel", "product"],
                                set_={"used": balance.c.used + used},
                            )
                        )
                    done += 1
        await consumer.commit()
    taken = time.monotonic() - began
    await consumer.stop()
    await engine.dispose()
    return done, taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--topics", required=True)
    parser.add_argument("--seconds", type=float, default=10)
    told = parser.parse_args()
    topics = told.topics.split(",")
    events, seconds = asyncio.run(run(told.servers, told.database, topics, told.seconds))
    used = os.times()
    print(
        json.dumps({"events": events, "seconds": seconds, "cpu_seconds": used.user + used.system})
    )


if __name__ == "__main__":
    main()
