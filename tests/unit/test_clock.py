"""What is due by the clock is settled in chunks, and the stream gets its turn in between."""

import asyncio
import time

from consumer.clock import CHANNELS_MIN, Clock
from metering.errors import Unavailable
from metering.meter import DUE_CHANNELS_MAX, Receipt


class FakeMeter:
    def __init__(self, *chunks, seconds_each=0.0):
        self.chunks = list(chunks)
        self.seconds_each = seconds_each
        self.wait = 0
        self.asked_at = []
        self.asked_for = []

    async def settle_due(self, *, now, channels_max):
        assert abs(now / 1_000_000 - time.time()) < 1
        self.asked_at.append(time.monotonic())
        self.asked_for.append(channels_max)
        if self.seconds_each:
            await asyncio.sleep(self.seconds_each * channels_max)
            return Receipt(), channels_max
        await asyncio.sleep(self.wait)
        chunk = self.chunks.pop(0) if self.chunks else 0
        if isinstance(chunk, Exception):
            raise chunk
        return Receipt(), chunk


async def run_for(seconds, meter, batch_since=None):
    clock = Clock(meter, batch_since)
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


async def test_a_slow_machine_settles_fewer_channels_at_a_time():
    meter = FakeMeter(seconds_each=0.004)
    clock = Clock(meter)
    running = asyncio.create_task(clock.run())
    while len(meter.asked_for) < 3:
        await asyncio.sleep(0.01)

    meter.seconds_each = 0.0001
    while len(meter.asked_for) < 5:
        await asyncio.sleep(0.01)
    clock.stop()
    await asyncio.wait_for(running, 5)

    first, second, third, _, fifth = meter.asked_for[:5]
    assert first == DUE_CHANNELS_MAX
    assert CHANNELS_MIN <= third <= second <= 0.5 / 0.004
    assert fifth == DUE_CHANNELS_MAX


async def test_where_the_stream_is_slow_the_clock_gives_it_more_time():
    slow, quick = FakeMeter(*[300] * 100), FakeMeter(*[300] * 100)
    slow.wait = quick.wait = 0.2
    begun = time.monotonic()

    await asyncio.gather(run_for(1.5, slow, {0: begun - 60, 1: begun}), run_for(1.5, quick, {}))

    # Chunks of 0.2 seconds, and rests of 0.6 or 0.2.
    assert len(slow.asked_at) == 2
    assert len(quick.asked_at) >= 3
