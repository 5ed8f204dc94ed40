"""How long an event takes from being produced to being in the books, with a steady stream."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks import product
from tests.benchmarks.stack import batches_of

if TYPE_CHECKING:
    import asyncpg

    from tests.benchmarks.stack import Stack
    from tests.benchmarks.workload import Workload

TICK_SECONDS = 0.02
LOOK_SECONDS = 0.01
# Until then the member reads accounts that it has never seen.
WARM_SECONDS = 3
LAST_SECONDS_MAX = 60

_POSITIONS = """
SELECT topic, topic_partition, next_offset FROM lotmeter.position WHERE topic = ANY ($1)
"""

Place = tuple[str, int]


@dataclass
class Delays:
    """Seconds from the moment an event was to be sent to the commit that covers its offset."""

    rate: float
    events: int
    p50: float
    p99: float
    longest: float


async def measure(
    stack: Stack, database: str, environ: dict[str, str], workload: Workload, *, seconds: float
) -> Delays:
    """Send a stream evenly, and see when each batch of it is covered by its position."""
    ticks = round(seconds / TICK_SECONDS)
    events = workload.spec.events
    async with stack.producer() as producer:
        # All is made beforehand, so that the sender has little to do beside what is measured.
        sizes = [events * (n + 1) // ticks - events * n // ticks for n in range(ticks)]
        made = [
            [
                (batch, topic, partition)
                for (topic, partition), records in workload.some(size).items()
                for batch in batches_of(producer, records)
            ]
            for size in sizes
        ]
        gc.collect()
        gc.freeze()
        async with product.reading(stack, database, environ) as (_, books):
            await asyncio.sleep(1)
            waiting: dict[Place, deque[tuple[int, float, int]]] = {}
            found: list[tuple[float, float, int]] = []
            began = time.monotonic()
            looking = asyncio.create_task(
                _look(books, list(workload.topics), waiting, found, events)
            )
            underway = []
            for number, batches in enumerate(made):
                at = began + number * TICK_SECONDS
                await asyncio.sleep(max(0, at - time.monotonic()))
                for batch, topic, partition in batches:
                    count = batch.record_count()
                    sent = await producer.send_batch(batch, topic, partition=partition)
                    underway.append(
                        asyncio.create_task(_note(sent, waiting, (topic, partition), at, count))
                    )
            await asyncio.gather(*underway)
            async with asyncio.timeout(LAST_SECONDS_MAX):
                await looking
        gc.unfreeze()
    late = sorted(
        (committed - at, count) for at, committed, count in found if at - began >= WARM_SECONDS
    )
    return Delays(
        events / seconds,
        sum(count for _, count in late),
        _quantile(late, 0.5),
        _quantile(late, 0.99),
        late[-1][0],
    )


async def _note(
    sent: asyncio.Future, waiting: dict[Place, deque], place: Place, at: float, count: int
) -> None:
    first = (await sent).offset
    waiting.setdefault(place, deque()).append((first + count, at, count))


async def _look(
    books: asyncpg.Connection,
    topics: list[str],
    waiting: dict[Place, deque[tuple[int, float, int]]],
    found: list[tuple[float, float, int]],
    events: int,
) -> None:
    statement, left = await books.prepare(_POSITIONS), events
    while left:
        rows = await statement.fetch(topics)
        now = time.monotonic()
        for topic, partition, next_offset in rows:
            batches = waiting.get((topic, partition), ())
            while batches and batches[0][0] <= next_offset:
                _, at, count = batches.popleft()
                found.append((at, now, count))
                left -= count
        await asyncio.sleep(LOOK_SECONDS)


def _quantile(late: list[tuple[float, int]], share: float) -> float:
    """Find the delay that a share of the events does not exceed."""
    wanted = share * sum(count for _, count in late)
    for delay, count in late:
        wanted -= count
        if wanted <= 0:
            return delay
    return late[-1][0]
