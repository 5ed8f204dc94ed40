"""Measure midnight: `make bench-midnight`. The month of 100,000 channels ends at one instant; two
members settle them while they read a steady stream. Ends with status 1 if that takes longer than
it may, or if the books are wrong.

Every channel has a lot of contacts and a lot of actions whose windows end, a cycle that begins with
contacts and a seat that it takes over, and something to be told: a minimum is deducted, contacts
are borrowed, a seat is postpaid.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import random
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
import orjson
from aiokafka.errors import KafkaError

from metering.periods import instant_of
from tests.benchmarks import books, processes, product
from tests.benchmarks.books import WrongBooks
from tests.benchmarks.delay import Delays, Watch
from tests.benchmarks.month_ends import Midnight, an_event, check, latest_midnight, populate
from tests.benchmarks.population import PARTITIONS, Record, name_of, partition_of
from tests.benchmarks.stack import Stack, batches_of, running_database, running_stack

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator

    from aiokafka import AIOKafkaProducer

SETTLE_SECONDS_MAX = 300
DELAY_SECONDS_MAX = 5
MEMBERS = 2

TICK_SECONDS = 0.05
LOOK_SECONDS = 0.5
PROGRESS_SECONDS = 10
LAST_SECONDS_MAX = 60
_DUE = "SELECT count(*) FROM lotmeter.channel WHERE due_at <= $1"
_OWNERS = "SELECT count(DISTINCT owner) FROM lotmeter.position WHERE topic = ANY ($1)"


async def settle(
    stack: Stack, database: str, environ: dict[str, str], midnight: Midnight, told: Namespace
) -> tuple[float, Delays, dict[str, float]]:
    """Let members settle what is due while they read a stream; returns seconds, delays and CPU."""
    topic, due_at = product.topics_of(environ)[0], instant_of(midnight.ends_at)
    async with (
        watching_books(stack, database) as books,
        stack.producer() as producer,
        product.reading(stack, database, environ, count=MEMBERS) as (running, looker),
        processes.watching(
            {**stack.roots, "members": [process.pid for process in running]}
        ) as usage,
        asyncio.TaskGroup() as tasks,
    ):
        began, is_over = time.monotonic(), asyncio.Event()
        # Members that join stop each other from reading for a moment, whatever else they do.
        while await books.fetchval(_OWNERS, [topic]) < MEMBERS:
            await asyncio.sleep(TICK_SECONDS)
        watch, streaming_since = Watch(looker, [topic]), time.monotonic()
        looking = tasks.create_task(watch.look(until=math.inf))
        stream = tasks.create_task(
            send_stream(producer, watch, topic, told.channels, told.rate, is_over)
        )
        patience, shown_at = product.Patience(running), began
        while left := await books.fetchval(_DUE, due_at):
            patience.check((left, watch.events))
            if (now := time.monotonic()) > shown_at + PROGRESS_SECONDS:
                late = watch.delays(rate=told.rate, since=shown_at - PROGRESS_SECONDS)
                print(
                    f"{now - began:4.0f} s: {left:7,} channels are due;"
                    f" delay {late.p50:.2f} s (p50), {late.p99:.2f} s (p99)",
                    flush=True,
                )
                shown_at = now
            await asyncio.sleep(LOOK_SECONDS)
        ended = time.monotonic()
        is_over.set()
        events = await stream
        async with asyncio.timeout(LAST_SECONDS_MAX):
            while watch.events < events:
                await asyncio.sleep(TICK_SECONDS)
        looking.cancel()
    delays = watch.delays(rate=told.rate, since=streaming_since, until=ended)
    return ended - began, delays, usage.cpu


@contextlib.asynccontextmanager
async def watching_books(stack: Stack, database: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection that looks at the books."""
    connection = await asyncpg.connect(stack.url_of(database))
    try:
        yield connection
    finally:
        await connection.close()


async def send_stream(
    producer: AIOKafkaProducer,
    watch: Watch,
    topic: str,
    channels: int,
    rate: float,
    is_over: asyncio.Event,
) -> int:
    """Send events of any of the channels evenly until it is over; returns how many there were."""
    draw, began, sent = random.Random(1), time.monotonic(), 0
    async with asyncio.TaskGroup() as tasks:
        while not is_over.is_set():
            at, now = time.monotonic(), datetime.now(UTC)
            wanted = round((at - began) * rate) - sent
            made: dict[int, list[Record]] = {}
            for place in range(sent, sent + wanted):
                number = draw.randrange(channels)
                event = an_event(number, "workflow.executed", f"s-{place}", now, {"actions": 1})
                record = Record(name_of(number).encode(), orjson.dumps(event))
                made.setdefault(partition_of(number), []).append(record)
            for partition, records in made.items():
                for batch in batches_of(producer, records):
                    count = batch.record_count()
                    future = await producer.send_batch(batch, topic, partition=partition)
                    tasks.create_task(watch.note(future, (topic, partition), at, count))
            sent += wanted
            await asyncio.sleep(TICK_SECONDS)
    return sent


async def bench(told: Namespace) -> bool:
    """Run it, say what was found, and whether it is within its limits."""
    midnight = latest_midnight(datetime.now(UTC))
    async with (
        running_database(told.database) as database_server,
        running_stack(told.kafka_servers, database_server, is_apache=False) as stack,
        stack.database("midnight") as database,
    ):
        url = stack.url_of(database)
        environ = stack.environ(database, stream=stack.mark, commands=f"{stack.mark}.commands")
        await stack.migrate(database)
        await stack.create_topics(environ, PARTITIONS)
        began = time.monotonic()
        await populate(url, told.channels, midnight)
        print(
            f"{told.channels:,} channels taken in within {time.monotonic() - began:.0f} s;"
            f" their months end at {midnight.ends_at.isoformat()}",
            flush=True,
        )
        seconds, delays, cpu = await settle(stack, database, environ, midnight, told)
        await check(url, told.channels, midnight)
        print(
            f"settled in {seconds:.1f} s by {MEMBERS} members:"
            f" {told.channels / seconds:,.0f} channels a second"
        )
        print(
            f"meanwhile {delays.events:,} events at {delays.rate:,.0f} a second were in the books"
            f" after {delays.p50:.2f} s (p50), {delays.p99:.2f} s (p99), {delays.longest:.2f} s"
            " (longest)"
        )
        spent = ", ".join(f"{role} {each:.0f}" for role, each in sorted(cpu.items()))
        print(f"CPU seconds: {spent}", flush=True)
        if not told.no_proof:
            print(f"verify: ok, in {await books.prove(url, environ):.0f} s")
    return seconds <= SETTLE_SECONDS_MAX and delays.p99 < DELAY_SECONDS_MAX


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench-midnight", description=__doc__)
    parser.add_argument("--channels", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=500, help="events a second of the stream")
    parser.add_argument("--kafka-servers", help="host:port of a broker; embedded if absent")
    parser.add_argument("--database", help="URL of a superuser; embedded PostgreSQL if absent")
    parser.add_argument("--no-proof", action="store_true", help="leave out verify")
    told = parser.parse_args()
    # A topic that was just made has no leader for a moment; what goes wrong for good is raised.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        is_within = asyncio.run(bench(told))
    except KeyboardInterrupt:
        return 130
    except (
        WrongBooks, RuntimeError, OSError, KafkaError, asyncpg.PostgresError, ExceptionGroup,
    ) as error:  # fmt: skip
        print(f"bench-midnight: {error}", file=sys.stderr)
        return 1
    if not is_within:
        print(
            f"bench-midnight: at most {SETTLE_SECONDS_MAX} s and p99 under {DELAY_SECONDS_MAX} s"
            " are promised",
            file=sys.stderr,
        )
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
