"""The product at work: members as real processes that drain a backlog, and their books checked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from consumer.settings import Settings
from consumer.wall_clock import now_instant
from metering.storage.database import create_engine
from metering.verification import verify
from tests.benchmarks import processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.benchmarks.stack import Stack
    from tests.benchmarks.workload import Manifest

# Nothing may hang for ever.
STALLED_SECONDS = 120
POLL_SECONDS = 0.02
STOP_SECONDS = 60

_READ = """
SELECT count(*) AS partitions, coalesce(sum(next_offset - start_offset), 0)::bigint AS records
FROM lotmeter.position WHERE topic = ANY ($1)
"""
_SETTLED = """
SELECT count(*) FILTER (WHERE time_zone IS NOT NULL) AS registered,
    count(*) FILTER (WHERE closes_at <= $1 OR due_at <= $1) AS overdue
FROM lotmeter.channel
"""
_REFUSED = "SELECT answer, count(*) FROM lotmeter.command WHERE answer IS NOT NULL GROUP BY 1"
_OUTCOMES = """
SELECT coalesce(sum(applied), 0)::bigint AS applied,
    coalesce(sum(duplicate), 0)::bigint AS duplicates,
    coalesce(sum(parked + b.rejected), 0)::bigint AS set_aside
FROM lotmeter.batch b JOIN lotmeter.position p ON p.number = b.position WHERE topic = ANY ($1)
"""
_USAGE = """
SELECT channel, product, sum(quantity)::bigint AS quantity FROM lotmeter.fill
WHERE source IN ('included', 'own', 'carried', 'borrowed', 'postpaid')
GROUP BY channel, product HAVING sum(quantity) > 0
"""
_SOURCES = "SELECT source, sum(quantity)::bigint / 1000 FROM lotmeter.fill GROUP BY source"


class WrongBooks(Exception):
    """The books are not what was sent: whatever was measured is worth nothing."""


@dataclass
class Drain:
    """What it took to read a backlog."""

    events: int
    seconds: float
    cpu: dict[str, float]
    memory: dict[str, int]
    bytes_of_database: int
    bytes_of_log: int
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


@contextlib.asynccontextmanager
async def members(
    environ: dict[str, str], *, count: int = 1, profile: Path | None = None
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Run members as in production, and stop them as a supervisor would."""
    command = [sys.executable, "-m", "consumer", "run"]
    if profile is not None:
        profiler = ["-m", "cProfile", "-o", str(profile), "-m", "consumer", "run"]
        command = [sys.executable, *profiler]
    running = [
        await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environ}, start_new_session=True
        )
        for _ in range(count)
    ]
    try:
        yield running
    finally:
        for process in running:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


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


async def drain(
    stack: Stack,
    database: str,
    environ: dict[str, str],
    *,
    records: int,
    count: int = 1,
    profile: Path | None = None,
) -> Drain:
    """Start members and measure from their first claim to the commit of the last record."""
    topics = environ["LOTMETER_USAGE_TOPICS"].split(",")
    watcher = await asyncpg.connect(stack.url_of(database))
    try:
        size, log = await _sizes(watcher)
        async with members(environ, count=count, profile=profile) as running:
            patience = Patience(running)
            while not (await watcher.fetchrow(_READ, topics))["partitions"]:
                patience.check(0)
                await asyncio.sleep(POLL_SECONDS)
            roots = {**stack.roots, "consumer": [process.pid for process in running]}
            began = time.monotonic()
            async with processes.watching(roots) as usage:
                while (read := (await watcher.fetchrow(_READ, topics))["records"]) < records:
                    patience.check(read)
                    await asyncio.sleep(POLL_SECONDS)
                seconds = time.monotonic() - began
            usage.memory["consumer"] = sum(
                processes.peak_bytes(process.pid) for process in running
            )
        size_after, log_after = await _sizes(watcher)
    finally:
        await watcher.close()
    return Drain(
        records, seconds, usage.cpu, usage.memory, size_after - size, log_after - log
    )


async def take_in_commands(
    stack: Stack, database: str, environ: dict[str, str], *, commands: int, channels: int
) -> float:
    """Have every channel registered and every lot bought; returns the seconds that took."""
    topics = [environ["LOTMETER_COMMANDS_TOPIC"]]
    watcher = await asyncpg.connect(stack.url_of(database))
    began = time.monotonic()
    try:
        async with members(environ) as running:
            patience = Patience(running)
            while True:
                read = (await watcher.fetchrow(_READ, topics))["records"]
                row = await watcher.fetchrow(_SETTLED, now_instant())
                if read >= commands and row["registered"] == channels and not row["overdue"]:
                    break
                patience.check((read, *row))
                await asyncio.sleep(0.2)
        refused = await watcher.fetch(_REFUSED)
    finally:
        await watcher.close()
    if refused:
        raise WrongBooks(f"commands were refused: {[tuple(row) for row in refused]}")
    return time.monotonic() - began


async def check_books(
    stack: Stack, database: str, environ: dict[str, str], manifest: Manifest
) -> dict[str, int]:
    """Hold the books against what was sent; returns the units by source. Raises WrongBooks."""
    topics = environ["LOTMETER_USAGE_TOPICS"].split(",")
    watcher = await asyncpg.connect(stack.url_of(database))
    try:
        outcomes = dict(await watcher.fetchrow(_OUTCOMES, topics))
        found = {
            (row["channel"], row["product"]): row["quantity"]
            for row in await watcher.fetch(_USAGE)
        }
        sources = {row["source"]: row[1] for row in await watcher.fetch(_SOURCES)}
    finally:
        await watcher.close()
    expected = {
        "applied": manifest.records - manifest.duplicates,
        "duplicates": manifest.duplicates,
        "set_aside": 0,
    }
    if outcomes != expected:
        raise WrongBooks(f"sent {expected}, found {outcomes}")
    sent = manifest.totals()
    if found != sent:
        wrong = sorted(key for key in sent.keys() | found if sent.get(key) != found.get(key))
        some = [(key, sent.get(key), found.get(key)) for key in wrong[:3]]
        raise WrongBooks(f"{len(wrong)} totals are not what was sent: {some} …")
    return sources


async def prove_books(stack: Stack, database: str, environ: dict[str, str]) -> float:
    """Have the product prove its books; returns the seconds that took. Raises WrongBooks."""
    settings = Settings.from_environ(environ)
    engine = create_engine(stack.url_of(database), connections=2)
    began = time.monotonic()
    try:
        report = await verify(engine, settings.read_catalog())
    finally:
        await engine.dispose()
    if not report.is_ok:
        raise WrongBooks("; ".join(report.differences[:5]))
    return time.monotonic() - began


async def _sizes(connection: asyncpg.Connection) -> tuple[int, int]:
    row = await connection.fetchrow(
        "SELECT pg_database_size(current_database()) AS size,"
        " pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS log"
    )
    return row["size"], row["log"]
