"""How long an event takes from being produced to being in the books, with a steady stream."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks import product
from tests.benchmarks.stack import batches_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from tests.benchmarks.stack import Stack
    from tests.benchmarks.workload import Workload

# For so long a producer gathers what it sends at once (its linger). It counts as delay, for each
# event in full.
LINGER_SECONDS = 0.1
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
    stack: Stack, database: str, environ: dict[str, str], workload: Workload, *, seconds: float,
    members: int,
) -> Delays:  # fmt: skip
    """Send a stream evenly, and see when each batch of it is covered by its position."""
    ticks = round(seconds / LINGER_SECONDS)
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
        async with product.reading(stack, database, environ, count=members) as (_, books):
            await asyncio.sleep(1)
            watch = Watch(books, workload.topics)
            began = time.monotonic()
            looking = asyncio.create_task(watch.look(until=events))
            underway = []
            for number, batches in enumerate(made):
                at = began + number * LINGER_SECONDS
                await asyncio.sleep(max(0, at + LINGER_SECONDS - time.monotonic()))
                for batch, topic, partition in batches:
                    count = batch.record_count()
                    sent = await producer.send_batch(batch, topic, partition=partition)
                    noting = watch.note(sent, (topic, partition), at, count)
                    underway.append(asyncio.create_task(noting))
            await asyncio.gather(*underway)
            async with asyncio.timeout(LAST_SECONDS_MAX):
                await looking
        gc.unfreeze()
    return watch.delays(rate=events / seconds, since=began + WARM_SECONDS)


class Watch:
    """Sees when the positions in the books cover the batches that were sent."""

    def __init__(self, books: asyncpg.Connection, topics: Iterable[str]) -> None:
        self._books = books
        self._topics = list(topics)
        self._waiting: dict[Place, deque[tuple[int, float, int]]] = {}
        self._found: list[tuple[float, float, int]] = []
        self.events = 0  # In the books.

    async def note(self, sent: asyncio.Future, place: Place, at: float, count: int) -> None:
        """Note where a batch stands, as soon as the broker says so."""
        first = (await sent).offset
        self._waiting.setdefault(place, deque()).append((first + count, at, count))

    async def look(self, *, until: float) -> None:
        """Look until so many events are in the books."""
        statement = await self._books.prepare(_POSITIONS)
        while self.events < until:
            rows = await statement.fetch(self._topics)
            now = time.monotonic()
            for topic, partition, next_offset in rows:
                batches = self._waiting.get((topic, partition), ())
                while batches and batches[0][0] <= next_offset:
                    _, at, count = batches.popleft()
                    self._found.append((at, now, count))
                    self.events += count
            await asyncio.sleep(LOOK_SECONDS)

    def delays(self, *, rate: float, since: float, until: float = math.inf) -> Delays:
        """Sum up the delays of events that were to be sent between two moments."""
        late = sorted(
            (committed - at, count) for at, committed, count in self._found if since <= at < until
        )
        return Delays(
            rate,
            sum(count for _, count in late),
            _quantile(late, 0.5),
            _quantile(late, 0.99),
            _quantile(late, 1),
        )


def _quantile(late: list[tuple[float, int]], share: float) -> float:
    """Find the delay that a share of the events does not exceed."""
    wanted = share * sum(count for _, count in late)
    for delay, count in late:
        wanted -= count
        if wanted <= 0:
            return delay
    return late[-1][0] if late else math.nan
