"""Who looks whether the others still work. What is stuck is not repaired: the process ends.

Kafka's client can lose its background tasks without a word, ask for ever and be answered nothing. A
member like that looks healthy, and its partitions stand still.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from consumer import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiokafka import AIOKafkaConsumer

    from consumer.clock import Clock
    from consumer.loop import Loop
    from consumer.partitions import Held, Partitions
    from consumer.settings import Settings

LOOK_SECONDS = 1

# Of sysexits.h: an internal software error. The supervisor only sees that it is not 0.
STUCK_STATUS = 70

# The parts of the client whose end nobody else notices. Its own names: they may go with a version.
_CLIENT_TASKS = (("_fetcher", "_fetch_task"), ("_coordinator", "_coordination_task"))

log = structlog.get_logger()


class Stuck(Exception):
    """Something stands still and will not go on by itself."""


class Watchdogs:
    """Looks every second, and raises Stuck."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        partitions: Partitions,
        loop: Loop,
        clock: Clock,
        *,
        settings: Settings,
    ) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._loop = loop
        self._clock = clock
        self._settings = settings
        # Of each partition, what the client said it was answered last, and since when it says so.
        self._answers: dict[Held, tuple[int | None, float]] = {}

    async def run(self) -> None:
        """Look for ever. Raises Stuck."""
        while True:
            asleep_since = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
            metrics.LOOP_LAG.observe(max(0, time.monotonic() - asleep_since - LOOK_SECONDS))
            metrics.TASKS.set(len(asyncio.all_tasks()))
            self._partitions.show()
            self.look()

    def look(self) -> None:
        """Look once. Raises Stuck."""
        now = time.monotonic()
        for owner, name in _CLIENT_TASKS:
            task = getattr(getattr(self._consumer, owner, None), name, None)
            if task is not None and task.done():
                raise Stuck(f"the Kafka client has lost its task {name.strip('_')}")
        fetch_age = self._fetch_age(now)
        metrics.FETCH_AGE.set(fetch_age)
        if fetch_age > self._settings.fetch_age_seconds_max:
            raise Stuck(f"a partition has not been answered for {fetch_age:.0f} seconds")
        asked_age = now - self._loop.pump.asked_at
        if asked_age > self._settings.fetch_age_seconds_max:
            raise Stuck(f"nothing has been asked of Kafka for {asked_age:.0f} seconds")
        begun = [*self._loop.batch_since.values(), self._clock.chunk_since or now]
        batch_age = now - min(begun)
        if batch_age > self._settings.batch_age_seconds_max:
            raise Stuck(f"a batch has run for {batch_age:.0f} seconds")

    def _fetch_age(self, now: float) -> float:
        """Say how long the partition has waited for an answer that has waited the longest."""
        answers = {}
        age = 0.0
        for held in self._partitions.ready:
            answer = self._consumer.last_poll_timestamp(held.tp)
            before, since = self._answers.get(held, (None, now))
            # The client tells the time of day, which can jump: only that it changes counts.
            since = since if answer == before else now
            answers[held] = (answer, since)
            if held.asked_since is not None:
                age = max(age, now - max(since, held.asked_since))
        self._answers = answers
        return age


@contextmanager
def watching_the_loop(*, lag_seconds_max: float) -> Iterator[None]:
    """End the process from outside if the event loop does not turn: nobody inside could."""
    loop = asyncio.get_running_loop()
    looks_in_vain = 0
    is_over = threading.Event()

    def turn() -> None:
        nonlocal looks_in_vain
        looks_in_vain = 0

    def watch() -> None:
        nonlocal looks_in_vain
        while not is_over.wait(LOOK_SECONDS):
            # Looks, not seconds: a process that was suspended has not stood still.
            looks_in_vain += 1
            if looks_in_vain * LOOK_SECONDS > lag_seconds_max:
                log.critical("stuck", why=f"the event loop stood still {lag_seconds_max} seconds")
                faulthandler.dump_traceback()
                os._exit(STUCK_STATUS)
            loop.call_soon_threadsafe(turn)

    thread = threading.Thread(target=watch, name="lotmeter-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
