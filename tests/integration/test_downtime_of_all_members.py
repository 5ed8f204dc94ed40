"""Members that were all down for three months start at once, and share what became due."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import orjson

from metering.periods import instant_of
from metering.verification import verify
from tests.builders import (
    assigned,
    contacts,
    marketing,
    purchased,
    registered,
    scheduled,
    workflow,
)
from tests.compare import differences
from tests.fakes import MemoryMeter
from tests.members import a_process, ask, becomes_true, line_with, read_all
from tests.replaying import Reader, fresh_books

# More than two members settle in one transaction each.
CHANNELS = 640
NOW = datetime.now(UTC)
# The members go by the real clock: where a day ends soon, they would settle more than is expected.
ZONES = [
    zone
    for zone in (
        "Asia/Seoul", "UTC", "America/New_York", "Pacific/Kiritimati", "Asia/Kolkata", "Etc/GMT+2",
    )
    if NOW.astimezone(ZoneInfo(zone)).hour < 22
]  # fmt: skip
STOPPED = NOW - timedelta(days=92)
DUE = "SELECT count(*) FROM channel WHERE due_at <= $1 OR closes_at <= $1"


def at(**spans):
    return (STOPPED - timedelta(days=2) + timedelta(**spans)).isoformat()


def life_of(number):
    """Tell of a channel that carries on with nobody asking for anything."""
    to = {"channel": f"c-{number}"}
    return [
        registered(
            at(),
            billing_day=1 + number % 27,
            time_zone=ZONES[number % len(ZONES)],
            plan="growth" if number % 3 else "enterprise",
            **to,
        ),
        contacts(at(hours=1), 3_000 + number, **to),
        assigned(at(hours=2), **to),
        purchased(at(hours=3), "mu", 100, "l-1", **to),
        purchased(at(hours=4), "workflow", 10 + number, "l-2", **to),
        workflow(at(hours=5), 7, **to),
        scheduled(at(hours=6), "marketing", 10, "l-3", **to),
        marketing(at(hours=7), 3, **to),
    ]


async def notices_of(port):
    """Say how many notices a member has issued, by its own metrics."""
    _, text = await ask(port, "/metrics")
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("lotmeter_notices_total{")
    )


async def test_members_that_were_down_for_three_months_share_the_work(
    environ, books, broker, fresh_database_url
):
    lines = [line for number in range(CHANNELS) for line in life_of(number)]
    memory = MemoryMeter()
    memory.take(lines)

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        for first in range(0, len(lines), 2_000):
            await reader.read(lines[first : first + 2_000])
        await reader.settle(instant_of(STOPPED))
        due = await books.fetchval(DUE, instant_of(NOW))

        async with a_process(environ) as one, a_process(environ) as other:
            # Both look for what is due at the same moment.
            async with books.transaction():
                await books.execute("LOCK TABLE channel IN EXCLUSIVE MODE")
                ports = [(await line_with(each, "starting"))["http_port"] for each in (one, other)]
                for each in (one, other):
                    await line_with(each, "started")

            async def nothing_is_due():
                return not await books.fetchval(DUE, instant_of(NOW))

            async def everything_is_sent():
                return not await books.fetchval("SELECT count(*) FROM outbox")

            await becomes_true(nothing_is_due)
            shares = [await notices_of(port) for port in ports]
            await becomes_true(everything_is_sent)

        found = await reader.documents(instant_of(NOW))
        report = await verify(engine, reader.catalog, full=True)
        notices = await books.fetchval("SELECT count(*) FROM notice")
        closed = await books.fetchval("SELECT count(*) FROM cycle")

    memory.wait_until(NOW.isoformat())
    expected = memory.document()["channels"]
    assert due == CHANNELS
    assert report.differences == []
    assert not differences({"channels": found}, {"channels": expected})
    assert all(share > 0 for share in shares)
    assert sum(shares) <= notices
    for topic, number in (("NOTICES", notices), ("STATEMENTS", closed)):
        messages = await read_all(broker, environ[f"LOTMETER_{topic}_TOPIC"], number)
        assert len({orjson.loads(message.value)["id"] for message in messages}) == number
