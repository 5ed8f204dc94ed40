"""What is due happens once and as of its own day, however long nobody looked, and whoever looks."""

import asyncio
from bisect import bisect_right
from collections import Counter

import asyncpg
import orjson
import pytest
import pytest_asyncio

from consumer import clock as clock_module
from consumer.clock import Clock
from consumer.decoding import instant_from
from metering.periods import HOUR, moment_of
from metering.verification import verify
from tests.builders import (
    Books,
    assigned,
    changed,
    contacts,
    instant,
    purchased,
    registered,
    renewal_set,
    scheduled,
    workflow,
)
from tests.compare import differences
from tests.random_scenarios import year
from tests.replaying import Reader, clocks_of, fresh_books
from tests.slow_model import Simulation

DAY = 24 * HOUR
ONE_MONTH, THREE_MONTHS, FIVE_MONTHS = 31 * DAY, 92 * DAY, 153 * DAY
PATIENCE_SECONDS = 60
DUE = "SELECT count(*) FROM channel WHERE due_at <= $1 OR closes_at <= $1"


class Witness:
    """Settles as a meter does, and notes how many channels there were."""

    def __init__(self, meter):
        self._meter = meter
        self.settled = []

    async def settle_due(self, *, now, channels_max):
        receipt, settled = await self._meter.settle_due(now=now, channels_max=channels_max)
        if settled:
            self.settled.append(settled)
        return receipt, settled


async def catch_up(connection, clocks, at):
    """Let clocks run at once until nothing is due any more."""
    running = [asyncio.create_task(clock.run()) for clock in clocks]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await connection.fetchval(DUE, at):
            await asyncio.sleep(0.05)
    for clock in clocks:
        clock.stop()
    await asyncio.gather(*running)


@pytest.fixture
def wall_clock(monkeypatch):
    """Return what sets the clock of the workers."""

    def show(at):
        monkeypatch.setattr(clock_module, "now_instant", lambda: at)

    return show


@pytest_asyncio.fixture
async def connection(fresh_database_url):
    connection = await asyncpg.connect(
        fresh_database_url, server_settings={"search_path": "lotmeter"}
    )
    yield connection
    await connection.close()


def those_that_never_wait(lines):
    """Leave out what would wait for a channel or an event: it is due by itself, at the horizon."""
    return [
        line
        for line in lines
        if "event" not in line
        or (line["event"]["type"] != "usage.voided" and line["event"]["subject"] != "c-nobody")
    ]


async def test_two_clocks_that_start_at_once_share_three_months_of_work(
    fresh_database_url, connection, wall_clock, monkeypatch
):
    # As many chunks as with thousands of channels.
    monkeypatch.setattr(clock_module, "DUE_CHANNELS_MAX", 3)
    monkeypatch.setattr(clock_module, "CHANNELS_MIN", 3)
    lines = those_that_never_wait(year(3, channels=24, lines=700)[0])
    clocks = clocks_of(lines)
    stopped = clocks[0] + FIVE_MONTHS
    started = stopped + THREE_MONTHS
    end = started + ONE_MONTH
    before = lines[: bisect_right(clocks, stopped)]
    after = lines[bisect_right(clocks, started) : bisect_right(clocks, end)]
    model = Simulation()

    async with (
        fresh_books(fresh_database_url) as engine,
        fresh_books(fresh_database_url) as other_engine,
    ):
        reader, other = Reader(engine), Reader(other_engine)
        await reader.claim()
        await reader.read(before)
        await reader.settle(stopped)
        # The partitions were read to their end all the while.
        await reader.mark_read(started)
        due = await connection.fetchval(DUE, started)
        wall_clock(started)
        witnesses = [Witness(reader.meter), Witness(other.meter)]

        await catch_up(connection, [Clock(witness) for witness in witnesses], started)

        found = await reader.documents(started)
        # And the books go on from there, whoever reads.
        await other.claim()
        await other.read(after)
        await other.settle(end)
        found_at_the_end = await other.documents(end)
        report = await verify(engine, reader.catalog, full=True)

    assert due > 20
    assert all(witness.settled for witness in witnesses)
    # Each channel was due once, and was settled once.
    assert sum(sum(witness.settled) for witness in witnesses) == due
    assert report.differences == []
    for line in before:
        model.take(line)
    model.move(moment_of(started))
    assert not differences({"channels": found}, {"channels": model.document()["channels"]})
    for line in after:
        model.take(line)
    model.move(moment_of(end))
    assert not differences(
        {"channels": found_at_the_end}, {"channels": model.document()["channels"]}
    )


async def test_more_than_a_year_of_downtime_is_caught_up_with_day_by_day(
    fresh_database_url, connection, wall_clock
):
    lines = [
        registered("2024-01-01", plan="growth"),
        contacts("2024-01-02", 7_500),
        assigned("2024-01-02", "m-1"),
        purchased("2024-01-03", "mu", 2_000, "l-mu", renew=True),
        purchased("2024-01-04", "pu", 100, "l-pu"),
        purchased("2024-01-05", "white_label", 1, "l-white", renew=True),
        purchased("2024-01-06", "workflow", 101, "l-work", renew=True),
        workflow("2024-01-07", 60),
        renewal_set("2024-01-08", "l-work", renew=False),
        scheduled("2024-01-09", "marketing", 100, "r-1", renew=True),
        changed("2024-01-10", billing_day=15),
    ]
    stopped, started = instant_from(instant("2024-01-20")), instant_from(instant("2025-04-20"))

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read(lines)
        await reader.settle(stopped)
        await reader.mark_read(started)
        wall_clock(started)
        witness = Witness(reader.meter)

        await catch_up(connection, [Clock(witness)], started)

        found = await reader.documents(started)
        report = await verify(engine, reader.catalog, full=True)
        told = await connection.fetch("SELECT destination, value FROM outbox ORDER BY number")

    assert witness.settled == [1]
    assert report.differences == []
    model = Simulation()
    for line in lines:
        model.take(line)
    model.move(moment_of(started))
    assert not differences({"channels": found}, {"channels": model.document()["channels"]})
    books = Books({"channels": found})
    assert books.lots() == [
        "l-mu",
        "l-pu",
        "l-white",
        "l-work",
        "r-1",
        "l-mu~2",
        "l-white~2",
        "r-1~2",
    ]
    assert books.notices("lot_renewed") == [
        ("2025-01-03", {"lot": "l-mu~2"}),
        ("2025-01-05", {"lot": "l-white~2"}),
        ("2025-02-01", {"lot": "r-1~2"}),
    ]
    assert books.notices("reservation_executed") == [("2024-02-01", {"lot": "r-1"})]
    # January is one month, then half of February, then whole months: all but two are closed.
    assert books.periods()[:3] == [
        ("2024-01-01", "2024-01-31"),
        ("2024-02-01", "2024-02-14"),
        ("2024-02-15", "2024-03-14"),
    ]
    assert [cycle["closed"] for cycle in books.channel()["cycles"]] == [True] * 16 + [False]
    # Each cycle begins with the contacts and the seat that it takes over.
    assert {books.usage("mu", start) for start, _ in books.periods()} == {"7500"}
    assert {books.usage("operator_seat", start) for start, _ in books.periods()} == {"1"}
    messages = [orjson.loads(row["value"]) for row in told]
    assert Counter(row["destination"] for row in told)["statements"] == 16
    assert len({message["id"] for message in messages}) == len(messages)
