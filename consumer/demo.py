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

from consumer import reports, sending, topics
from consumer.embedded import embedded_broker, embedded_postgres
from consumer.settings import PREFIX, Settings
from consumer.terminal import Stop, catalog_of, engine_of
from consumer.traffic import Traffic
from consumer.wall_clock import now_instant
from metering.storage import book_store, schema
from metering.verification import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from rich.table import Table
    from sqlalchemy.ext.asyncio import AsyncEngine

    from consumer.traffic import Customer

PARTITIONS = 8
HOST, METRICS_PORT = "127.0.0.1", 9464

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


async def demo(
    *,
    events: int,
    channels: int,
    seed: int,
    keep: bool,
    report: Callable[[dict[str, Any]], None] | None,
) -> bool:
    """Run the system on traffic of the last thirty days; say what was sent and what was found.

    With a function to report to, only that is told. Returns whether all was found and proven.
    """
    quiet = report is not None
    async with embedded_postgres() as database_url, embedded_broker() as broker:
        environ = {
            f"{PREFIX}DATABASE_URL": database_url,
            f"{PREFIX}KAFKA_SERVERS": broker,
            f"{PREFIX}HTTP_ADDRESS": f"{HOST}:{_port_for_metrics()}",
            f"{PREFIX}IDLE_MARK_SECONDS": "1",
            f"{PREFIX}GAUGE_SECONDS": "2",
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
                proof = await verify(engine, catalog)
                is_proven = proof.is_ok and found == traffic.manifest.document()
                document = {
                    "sent": traffic.manifest.document(),
                    "found": found,
                    "seconds": round(seconds, 2),
                    "events_per_second": round(events / seconds),
                    "verify": {"ok": is_proven},
                }
                channel = _most_telling(traffic.customers).channel
                if report is not None:
                    report(document)
                else:
                    await _show(engine, catalog, channel, document)
                    reports.show_verification(proof.is_ok, proof.checked, proof.differences)
                if keep:
                    await _stay(settings, consumer, channel, quiet=quiet)
        finally:
            await engine.dispose()
    return is_proven


def _most_telling(customers: Sequence[Customer]) -> Customer:
    """Pick the busiest customer whose plan includes nothing, so that lots pay for its usage."""
    return max(customers, key=lambda customer: (customer.plan == "enterprise", customer.busy))


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
    names = ("included", "own", "carried", "borrowed", "postpaid", "minimum")
    table = reports.a_table("drawn units", *names)
    table.title = f"{done:,} events, {done / max(seconds, 0.001):,.0f} a second"
    table.title_justify = table.caption_justify = "left"
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
    table = reports.a_table("what became of them", "sent", "found")
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


async def _stay(
    settings: Settings, consumer: asyncio.subprocess.Process, channel: str, *, quiet: bool
) -> None:
    """Leave everything running, and say how to use it, until told to stop."""
    url = settings.database_url.get_secret_value()
    words = (
        "",
        "All of it stays up until Ctrl-C. In another terminal, in this directory:",
        "",
        f"    export {PREFIX}KAFKA_SERVERS={settings.kafka_servers}",
        f"    export {PREFIX}DATABASE_URL={url}",
        f"    export {PREFIX}HTTP_ADDRESS={settings.http_address}",
        f"    .venv/bin/lotmeter statement {channel}",
        "",
        f"Metrics are at http://{settings.http_address}/metrics",
    )
    # Lines that are to be copied must not be broken.
    print("\n".join(words), file=sys.stderr if quiet else sys.stdout, flush=True)
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(consumer.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if not stop.is_set():
        raise Stop(f"the consumer ended with status {consumer.returncode}")


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


def _port_for_metrics() -> int:
    """Pick the port where people look first; any other if it is taken."""
    for port in (METRICS_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As the server does: connections that have just ended are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise Stop("there is no free port")
