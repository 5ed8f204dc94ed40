"""Reads lines of a scenario into a database batch by batch, with clocks that a test chooses."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import simulate
from consumer.readers import decoder_for
from metering.catalog import Catalog, shipped_catalog
from metering.meter import Batch, Meter, Partition, Receipt, Record, Slice
from metering.storage import book_store, schema
from metering.storage.database import create_engine
from tests.builders import Line

TOPICS = ("billing.commands", "usage.mu", "usage.seat", "usage.workflow", "usage.message")
GROUP = "replay"
SCHEMA = "lotmeter"


@asynccontextmanager
async def fresh_books(url: str) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on a database that has books, empty ones if it had none."""
    engine = create_engine(url, schema=SCHEMA)
    try:
        await schema.migrate(engine, SCHEMA)
        yield engine
    finally:
        await engine.dispose()


def clocks_of(lines: Iterable[Line]) -> list[int]:
    """Say what the clock shows at each line."""
    return simulate._clocks([simulate._line(json.dumps(line)) for line in lines])


class Reader:
    """A meter with one partition of each topic, which it reads line by line."""

    def __init__(self, engine: AsyncEngine, *, catalog: Catalog | None = None) -> None:
        self.engine = engine
        self.catalog = catalog or shipped_catalog()
        self._decode = decoder_for(self.catalog, commands_topic=simulate.COMMANDS)
        self.meter = Meter(engine, self.catalog, self._decode, group=GROUP)
        self._claims: dict[str, Any] = {}
        self._offsets: dict[str, int] = {}
        self._clock = -(2**62)

    async def claim(self) -> None:
        """Claim the partitions, and go on where the books are."""
        partitions = {Partition(topic, 0): 0 for topic in TOPICS}
        claims = await self.meter.claim(partitions, owner=GROUP, cluster_id=GROUP)
        self._claims = {claim.partition.topic: claim for claim in claims}
        self._offsets = {topic: claim.next_offset for topic, claim in self._claims.items()}

    def batch_of(self, lines: Sequence[Line]) -> Batch:
        """Make a batch of the lines that come next."""
        before, records = dict(self._offsets), []
        for built in lines:
            line = simulate._line(json.dumps(built))
            self._clock = max(self._clock, line.clock or self._clock)
            # What names no topic of ours is read from one of ours all the same.
            topic = line.topic if line.topic in self._claims else TOPICS[1]
            place = self._claims[topic].number, self._offsets[topic]
            self._offsets[topic] += 1
            found = simulate._found(self._decode, line)
            records.append(Record(*place, self._clock, topic, None, line.value, (), found))
        slices = [
            Slice(claim, before[topic], self._offsets[topic], None, self._clock)
            for topic, claim in sorted(self._claims.items())
            if self._offsets[topic] > before[topic]
        ]
        return Batch(slices, records)

    async def read(self, lines: Sequence[Line], *, now: int | None = None) -> Receipt:
        """Read the lines that come next in one batch."""
        return await self.meter.record(self.batch_of(lines), now=now)

    async def mark_read(self, until: int) -> None:
        """Note that nothing came until then, as whoever reads idle partitions does."""
        await self.meter.mark_read(list(self._claims.values()), read_up_to=until)

    async def settle(self, at: int) -> int:
        """Let happen all that is due by an instant; returns for how many channels something was."""
        channels = 0
        while True:
            _, settled = await self.meter.settle_due(now=at, closing_clock=at)
            if not settled:
                return channels
            channels += settled

    async def documents(self, at: int) -> dict[str, Any]:
        """Read the books of all channels, as of an instant up to which they are settled."""
        return await book_store.read_all(self.engine, self.catalog, clock=at)
