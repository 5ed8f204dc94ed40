"""What is due by the clock is settled in chunks, and the stream gets its turn in between."""

import asyncio
import time

from consumer.clock import Clock
from metering.errors import Unavailable
from metering.meter import Receipt


class FakeMeter:
    def __init__(self, *chunks):
        self.chunks = list(chunks)
        self.asked_at = []

    async def settle_due(self, *, now):
        assert abs(now / 1_000_000 - time.time()) < 1
        self.asked_at.append(time.monotonic())
        chunk = self.chunks.pop(0) if self.chunks else 0
        if isinstance(chunk, Exception):
            raise chunk
        return Receipt(), chunk


async def run_for(seconds, meter):
    clock = Clock(meter)
    running = asyncio.create_task(clock.run())
    await asyncio.sleep(seconds)
    clock.stop()
    await asyncio.wait_for(running, 1)
    assert clock.chunk_since is None


async def test_chunks_follow_each_other_while_something_is_due():
    meter = FakeMeter(300, 300, 12)

    await run_for(0.4, meter)

    assert len(meter.asked_at) == 4


async def test_where_nothing_is_due_the_clock_rests_and_still_stops_at_once():
    meter = FakeMeter()

    await run_for(0.1, meter)

    assert len(meter.asked_at) == 1


async def test_a_database_that_is_away_is_asked_again():
    meter = FakeMeter(Unavailable(), Unavailable(), 0)

    await run_for(0.8, meter)

    assert len(meter.asked_at) == 3
