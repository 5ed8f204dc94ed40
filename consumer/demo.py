"""The whole system at work: a broker, a database, the consumer as it runs in production, and
traffic with faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from rich.live import Live
from rich.table import Table

from consumer import reports, sending, topics
from consumer.embedded import embedded_broker, embedded_postgres
from consumer.settings import PREFIX, Settings
from consumer.terminal import Stop, catalog_of, engine_of
from consumer.traffic import Traffic
from consumer.wall_clock import now_instant
from metering.storage import book_store, schema
from metering.verification import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

PARTITIONS = 8

# The traffic is read at some ten thousand records a second; nothing may hang for ever.
STALLED_SECONDS = 120
POLL_SECONDS = 0.25

_PROGRESS = sa.text("""
SELECT (SELECT coalesce(sum(next_offset - start_offset), 0) FROM position)::bigint AS records,
    (SELECT coalesce(sum(rejected), 0) FROM batch)::bigint AS rejected,
    (SELECT coalesce(sum(duplicate), 0) FROM batch)::bigint AS duplicate
""")
_SOURCES = sa.text("""
SELECT product, source, sum(quantity)::bigint / 1000 AS units FROM fill GROUP BY product, source
""")
_OVERDUE = sa.text("""
SELECT (SELECT count(*) FROM channel WHERE time_zone IS NOT NULL) AS registered,
    (SELECT count(*) FROM channel WHERE closes_at <= :now OR due_at <= :now) AS overdue
""")


async def demo(*, events: int, channels: int, seed: int, keep: bool, quiet: bool) -> dict[str, Any]:
    """Run the system on traffic of the last thirty days; say what was sent and what was found."""
    async with embedded_postgres() as database_url, embedded_broker() as broker:
        environ = {
            f"{PREFIX}DATABASE_URL": database_url,
            f"{PREFIX}KAFKA_SERVERS": broker,
            f"{PREFIX}HTTP_ADDRESS": f"127.0.0.1:{_free_port()}",
            f"{PREFIX}IDLE_MARK_SECONDS": "1",
            # The embedded broker waits for half of it before it lets the first member in.
            f"{PREFIX}SESSION_TIMEOUT_SECONDS": "6",
            f"{PREFIX}LOG_LEVEL": "warning",
        }
        settings = Settings.from_environ(environ)
        catalog = catalog_of(settings)
        engine = engine_of(settings)
        try:
            await schema.migrate(engine, settings.database_schema)
            await topics.create_missing(settings, partitions=PARTITIONS, replication=1)
            traffic = Traffic(
                events=events, channels=channels, seed=seed, now=now_instant(), catalog=catalog
            )
            async with _consumer(environ) as consumer:
                await _send(settings, traffic.commands())
                await _until_ready(engine, consumer, channels, traffic.manifest.records)
                seconds = await _stream(settings, engine, consumer, traffic, quiet=quiet)
                found = await book_store.totals(engine)
                report = await verify(engine, catalog)
                document = {
                    "sent": traffic.manifest.document(),
                    "found": found,
                    "seconds": round(seconds, 2),
                    "events_per_second": round(events / seconds),
                    "verify": {"ok": report.is_ok and found == traffic.manifest.document()},
                }
                if not quiet:
                    channel = max(traffic.customers, key=lambda customer: customer.busy).channel
                    await _show(engine, catalog, channel, document)
                    reports.show_verification(report.is_ok, report.checked, report.differences)
                if keep:
                    await _stay(settings)
        finally:
            await engine.dispose()
    return document


@contextlib.asynccontextmanager
async def _consumer(environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the consumer in a process of its own, as in production, and stop it as a supervisor
    would.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "consumer",
        "run",
        env={**os.environ, **environ},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()


def _outgoing(messages: Iterator[Any]) -> Iterator[sending.Outgoing]:
    return (sending.Outgoing(message.topic, message.key, message.value) for message in messages)


async def _send(settings: Settings, messages: Iterator[Any]) -> int:
    return await sending.send(settings, _outgoing(messages))


async def _until_ready(
    engine: AsyncEngine, consumer: asyncio.subprocess.Process, channels: int, records: int
) -> None:
    """Wait until every channel is registered and its past cycles are closed: from then on it is
    certain what is late.
    """
    patience = _Patience(consumer)
    while True:
        async with engine.connect() as connection:
            row = (await connection.execute(_OVERDUE, {"now": now_instant()})).one()
            read = (await connection.execute(_PROGRESS)).one().records
        if row.registered == channels and not row.overdue and read >= records:
            return
        patience.check((row.registered, row.overdue, read))
        await asyncio.sleep(POLL_SECONDS)


async def _stream(
    settings: Settings,
    engine: AsyncEngine,
    consumer: asyncio.subprocess.Process,
    traffic: Traffic,
    *,
    quiet: bool,
) -> float:
    """Send the usage while it is read, and show how far it is; returns the seconds from first to
    last.
    """
    before, began = traffic.manifest.records, time.monotonic()
    sender = asyncio.create_task(_send(settings, traffic.usage()))
    patience = _Patience(consumer)
    with Live(console=reports.console, transient=True, auto_refresh=False) as live:
        while True:
            async with engine.connect() as connection:
                row = (await connection.execute(_PROGRESS)).one()
                sources = (await connection.execute(_SOURCES)).all() if not quiet else []
            done = row.records - before
            seconds = time.monotonic() - began
            if not quiet:
                live.update(_progress(done, seconds, row, sources), refresh=True)
            if sender.done() and row.records >= traffic.manifest.records:
                await sender
                return seconds
            if sender.done():
                sender.result()
            patience.check(row.records)
            await asyncio.sleep(POLL_SECONDS)


def _progress(done: int, seconds: float, row: Any, sources: Any) -> Table:  # noqa: ANN401
    table = Table(title=f"{done:,} events, {done / max(seconds, 0.001):,.0f} a second")
    names = ("included", "own", "carried", "borrowed", "postpaid", "minimum")
    table.add_column("drawn units")
    for name in names:
        table.add_column(name, justify="right")
    units = {(product, source): amount for product, source, amount in sources}
    for product in sorted({product for product, _ in units}):
        table.add_row(product, *(f"{units.get((product, name), 0):,}" for name in names))
    table.caption = f"{row.rejected:,} rejected, {row.duplicate:,} duplicates"
    return table


async def _show(engine: AsyncEngine, catalog: Any, channel: str, document: dict[str, Any]) -> None:  # noqa: ANN401
    books = await book_store.read_channel(engine, catalog, channel, clock=now_instant())
    assert books is not None
    reports.show_cycles(channel, books["cycles"][-2:])
    for lot in books["lots"]:
        if lot["product"] == "workflow":
            reports.show_lot(channel, lot)
    sent, found = document["sent"], document["found"]
    table = Table(title="sent and found")
    for heading in ("", "sent", "found"):
        table.add_column(heading, justify="right")
    for name in ("records", "applied", "duplicate", "late", "voided", "parked"):
        table.add_row(name, f"{sent[name]:,}", f"{found[name]:,}")
    for reason in sorted({*sent["rejected"], *found["rejected"]}):
        table.add_row(
            f"rejected: {reason}",
            f"{sent['rejected'].get(reason, 0):,}",
            f"{found['rejected'].get(reason, 0):,}",
        )
    reports.console.print(table)
    reports.console.print(
        f"{document['events_per_second']:,} events a second, in {document['seconds']} seconds"
        " from the first one sent to the last one in the books"
    )


async def _stay(settings: Settings) -> None:
    host, port = settings.http_endpoint
    reports.console.print(f"metrics at http://{host}:{port}/metrics, until Ctrl-C")
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await stop.wait()


class _Patience:
    """Gives up when nothing moves any more."""

    def __init__(self, consumer: asyncio.subprocess.Process) -> None:
        self._consumer = consumer
        self._seen: object = None
        self._since = time.monotonic()

    def check(self, seen: object) -> None:
        """Look at how far things are. Raises Stop if that is where they were long ago."""
        if self._consumer.returncode is not None:
            raise Stop(f"the consumer ended with status {self._consumer.returncode}")
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif now - self._since > STALLED_SECONDS:
            raise Stop(f"nothing was read for {STALLED_SECONDS} seconds")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
