"""The product at work: members as real processes that drain a backlog."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from consumer.settings import PREFIX
from consumer.wall_clock import now_instant
from tests.benchmarks import processes, profiling
from tests.benchmarks.books import WrongBooks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.benchmarks.stack import Stack

# Nothing may hang for ever.
STALLED_SECONDS = 180
STOP_SECONDS = 60
TAKING_OVER_SECONDS_MAX = 15
# The watcher looks rarely while there is much to do, and often when the end is near.
LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 0.01, 0.5

_READ = """
SELECT count(DISTINCT owner) AS members,
    coalesce(sum(next_offset - start_offset), 0)::bigint AS records
FROM lotmeter.position WHERE topic = ANY ($1)
"""
_SETTLED = """
SELECT count(*) FILTER (WHERE time_zone IS NOT NULL) AS registered,
    count(*) FILTER (WHERE closes_at <= $1 OR due_at <= $1) AS overdue
FROM lotmeter.channel
"""
_REFUSED = "SELECT answer, count(*) FROM lotmeter.command WHERE answer IS NOT NULL GROUP BY 1"
_SIZES = """
SELECT pg_database_size(current_database()) AS of_database,
    pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS of_log
"""


@dataclass
class Drain:
    """What it took to read a backlog."""

    events: int
    seconds: float
    cpu: dict[str, float]  # Seconds, by role.
    memory: dict[str, int]  # Bytes at most, by role; of a consumer: of the largest member.
    bytes_of_database: int
    bytes_of_log: int

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class Patience:
    """Gives up when nothing moves any more."""

    def __init__(self, running: list[asyncio.subprocess.Process]) -> None:
        self._running = running
        self._seen: object = None
        self._since = time.monotonic()

    def check(self, seen: object) -> None:
        """Look at how far things are."""
        for process in self._running:
            if process.returncode is not None:
                raise RuntimeError(f"a member ended with status {process.returncode}")
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif now - self._since > STALLED_SECONDS:
            raise RuntimeError(f"nothing was read for {STALLED_SECONDS} seconds: {seen}")


@contextlib.asynccontextmanager
async def members(
    environ: dict[str, str], *, count: int = 1, profile: Path | None = None
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Run members as in production, and stop them as a supervisor would."""
    options = [] if profile is None else profiling.options_of_member(profile)
    command = [sys.executable, *options, "-m", "consumer", "run"]
    running = [
        await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environ}, start_new_session=True
        )
        for _ in range(count)
    ]
    try:
        yield running
    finally:
        await asyncio.gather(*map(_stop, running))


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def reading(
    stack: Stack, database: str, environ: dict[str, str], *, count: int = 1,
    profile: Path | None = None,
) -> AsyncIterator[tuple[list[asyncio.subprocess.Process], asyncpg.Connection]]:  # fmt: skip
    """Run members from when each has claimed a partition; with a look at the books."""
    topics = topics_of(environ)
    watcher = await asyncpg.connect(stack.url_of(database))
    try:
        async with members(environ, count=count, profile=profile) as running:
            patience = Patience(running)
            while (await watcher.fetchrow(_READ, topics))["members"] < count:
                patience.check(0)
                await asyncio.sleep(LOOK_SECONDS_MIN)
            yield running, watcher
            await _leave_one_by_one(running, watcher, topics)
    finally:
        await watcher.close()


async def _leave_one_by_one(
    running: list[asyncio.subprocess.Process], watcher: asyncpg.Connection, topics: list[str]
) -> None:
    """Stop all members but one, each when the others have taken over from the one before: when
    all leave at once the embedded broker takes one of them for the leader of their group for ever,
    and lets nobody in again.
    """
    for left in range(len(running) - 1, 0, -1):
        await _stop(running[left])
        async with asyncio.timeout(TAKING_OVER_SECONDS_MAX):
            while (await watcher.fetchrow(_READ, topics))["members"] > left:
                await asyncio.sleep(LOOK_SECONDS_MAX / 5)


async def drain(
    stack: Stack, database: str, environ: dict[str, str], *, records: int, count: int = 1,
    profile: Path | None = None, standstill: int = 0,
) -> Drain:  # fmt: skip
    """Measure members from their claims to the commit of the last record.

    Of several members one comes first: what it has read by then does not count.
    """
    async with reading(stack, database, environ, count=count, profile=profile) as (running, books):
        topics, patience = topics_of(environ), Patience(running)
        before = await books.fetchrow(_SIZES)
        began, had = time.monotonic(), (await books.fetchrow(_READ, topics))["records"]
        if had > records / 2:
            raise RuntimeError(f"{count} members need a larger backlog: {had:,} were read by one")
        found = [process.pid for process in running]
        async with (
            processes.watching({**stack.roots, "consumer": found}) as usage,
            profiling.sampling(found[0], books, profile),
            _standing_still(stack.url_of(database), standstill),
        ):
            while (read := (await books.fetchrow(_READ, topics))["records"]) < records:
                patience.check(read)
                left = (records - read) * (time.monotonic() - began) / max(1, read - had)
                await asyncio.sleep(max(LOOK_SECONDS_MIN, min(LOOK_SECONDS_MAX, left / 8)))
            seconds = time.monotonic() - began
        usage.memory["consumer"] = max(map(processes.peak_bytes, found))
        after = await books.fetchrow(_SIZES)
    grown = [after[name] - before[name] for name in ("of_database", "of_log")]
    return Drain(records - had, seconds, usage.cpu, usage.memory, *grown)


@contextlib.asynccontextmanager
async def _standing_still(url: str, seconds: int) -> AsyncIterator[None]:
    """Let nobody at the channels for some seconds, as a database does that hangs."""

    async def hold() -> None:
        keeper = await asyncpg.connect(url)
        try:
            async with keeper.transaction():
                await keeper.execute("LOCK TABLE lotmeter.channel IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(seconds)
        finally:
            await keeper.close()

    holding = asyncio.create_task(hold()) if seconds else None
    try:
        yield
    finally:
        if holding is not None:
            await holding


async def take_in_commands(
    stack: Stack, database: str, environ: dict[str, str], *, commands: int, channels: int
) -> float:
    """Have every channel registered and every lot bought; returns the seconds that took.

    Nothing of it is left to be done during what is measured: notices are not sent any more.
    """
    topics = [environ[f"{PREFIX}COMMANDS_TOPIC"]]
    async with reading(stack, database, environ) as (running, books):
        began, patience = time.monotonic(), Patience(running)
        while True:
            read = (await books.fetchrow(_READ, topics))["records"]
            settled = await books.fetchrow(_SETTLED, now_instant())
            if read >= commands and (*settled,) == (channels, 0):
                break
            patience.check((read, *settled))
            await asyncio.sleep(0.1)
        seconds = time.monotonic() - began
    keeper = await asyncpg.connect(stack.url_of(database))
    try:
        refused = await keeper.fetch(_REFUSED)
        await keeper.execute("DELETE FROM lotmeter.outbox")
        await keeper.execute("VACUUM ANALYZE")
    finally:
        await keeper.close()
    if refused:
        raise WrongBooks(f"commands were refused: {[tuple(row) for row in refused]}")
    return seconds


def topics_of(environ: dict[str, str]) -> list[str]:
    """List the usage topics of a member."""
    return environ[f"{PREFIX}USAGE_TOPICS"].split(",")
