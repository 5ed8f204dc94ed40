"""What stands still is noticed, and what merely waits is left alone."""

import asyncio
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition

from consumer.partitions import Held
from consumer.settings import Settings
from consumer.watchdogs import STUCK_STATUS, Stuck, Watchdogs

BLOCK_THE_LOOP = """
import asyncio, time
from consumer.watchdogs import watching_the_loop

async def main():
    with watching_the_loop(lag_seconds_max=1):
        await asyncio.sleep(0.1)
        time.sleep(30)

asyncio.run(main())
"""


@pytest.fixture
def world():
    """Everything that is watched, in order."""
    now = time.monotonic()
    answered = {"timestamp": 1}
    held = Held(TopicPartition("usage.mu", 0), "ready")
    consumer = SimpleNamespace(last_poll_timestamp=lambda _: answered["timestamp"])
    partitions = SimpleNamespace(ready=[held])
    loop = SimpleNamespace(pump=SimpleNamespace(asked_at=now), batch_since={})
    clock = SimpleNamespace(chunk_since=None)
    settings = Settings(
        kafka_servers="kafka:9092",
        database_url="postgresql://db/books",
        fetch_age_seconds_max=100,
        batch_age_seconds_max=50,
    )
    watchdogs = Watchdogs(consumer, partitions, loop, clock, settings=settings)
    return SimpleNamespace(**locals())


def an_hour_later(world, monkeypatch):
    world.loop.pump.asked_at += 3_600
    monkeypatch.setattr(time, "monotonic", lambda: world.now + 3_600)


def test_all_is_well(world):
    world.held.asked_since = world.now

    world.watchdogs.look()


def test_a_partition_that_is_asked_and_never_answered_is_stuck(world, monkeypatch):
    world.held.asked_since = world.now
    world.watchdogs.look()
    an_hour_later(world, monkeypatch)

    with pytest.raises(Stuck, match="has not been answered for 3600 seconds"):
        world.watchdogs.look()


def test_a_partition_that_is_answered_is_not_stuck(world, monkeypatch):
    world.held.asked_since = world.now
    world.watchdogs.look()
    an_hour_later(world, monkeypatch)
    # However the clock of the day jumps.
    world.answered["timestamp"] = -5

    world.watchdogs.look()


def test_a_partition_that_nobody_asks_is_not_stuck(world, monkeypatch):
    world.watchdogs.look()
    an_hour_later(world, monkeypatch)

    world.watchdogs.look()


def test_a_pump_that_no_longer_asks_is_stuck(world, monkeypatch):
    an_hour_later(world, monkeypatch)
    world.loop.pump.asked_at -= 3_600

    with pytest.raises(Stuck, match="nothing has been asked"):
        world.watchdogs.look()


def test_a_batch_that_never_ends_is_stuck(world):
    world.loop.batch_since[1] = world.now - 60

    with pytest.raises(Stuck, match="a batch has run for 60 seconds"):
        world.watchdogs.look()


def test_a_chunk_of_the_clock_that_never_ends_is_stuck(world):
    world.clock.chunk_since = world.now - 60

    with pytest.raises(Stuck, match="a batch"):
        world.watchdogs.look()


async def test_a_task_that_the_client_lost_is_noticed(world):
    lost = asyncio.create_task(asyncio.sleep(0))
    await lost
    world.consumer._fetcher = SimpleNamespace(_fetch_task=lost)

    with pytest.raises(Stuck, match="has lost its task fetch_task"):
        world.watchdogs.look()


def test_an_event_loop_that_stands_still_ends_the_process():
    began = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-c", BLOCK_THE_LOOP], capture_output=True, text=True, check=False
    )

    assert done.returncode == STUCK_STATUS
    assert "time.sleep" in done.stderr or "line 8" in done.stderr
    assert time.monotonic() - began < 20
