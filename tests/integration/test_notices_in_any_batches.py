"""Notices neither repeat nor go missing, however the same records are cut into batches.

The records of each day come in their order, commands first, so no crossing is undone in a batch:
those the rules let a batch leave out.
"""

import random
from collections import Counter
from datetime import date, timedelta

import asyncpg
import orjson
import pytest

from metering import account_cache
from tests import slow_model
from tests.builders import (
    assigned,
    contacts,
    limit_set,
    marketing,
    message,
    purchased,
    registered,
    renewal_set,
    reservation_cancelled,
    scheduled,
    workflow,
)
from tests.replaying import Reader, clocks_of, fresh_books

FIRST_DAY = date(2024, 1, 1)
DAYS = 45
LATER = "2025-03-20T12:00:00+09:00"
ALL_CROSSINGS = {
    "quota_used",
    "borrowing",
    "postpaid",
    "limit_reached",
    "lot_low",
    "lot_expiring",
    "lot_started",
    "lot_expired",
    "lot_renewed",
    "reservation_made",
    "reservation_executed",
    "reservation_cancelled",
    "command_refused",
}


def orders_of(draw, channel, on, number):
    """Make up what is asked for at the beginning of a day."""
    at, to = f"{on}T00:{10 + number:02d}:00+09:00", {"channel": channel}
    choice = draw.random()
    lot = f"l-{on}-{number}"
    if choice < 0.12:
        return [limit_set(at, draw.choice(("workflow", "mu")), draw.choice((None, 20, 60)), **to)]
    if choice < 0.2:
        product = draw.choice(("workflow", "marketing", "mu"))
        return [purchased(at, product, draw.choice((10, 50, 100)), lot, renew=True, **to)]
    if choice < 0.26:
        return [purchased(at, "pu", 100, lot, **to)]
    if choice < 0.32:
        return [scheduled(at, "workflow", draw.choice((5, 0)), lot, **to)]
    if choice < 0.36:
        return [scheduled(at, "marketing", 5, lot, **to), reservation_cancelled(at, lot, **to)]
    return [renewal_set(at, "nowhere", renew=True, **to)] if choice < 0.38 else []


def uses_of(draw, channel, on, minutes):
    at, to = f"{on}T{1 + minutes // 60:02d}:{minutes % 60:02d}:00+09:00", {"channel": channel}
    some = draw.randint(1, 25)
    return draw.choice(
        (
            workflow(at, some, **to),
            workflow(at, some, **to),
            marketing(at, some, **to),
            contacts(at, some * 4, **to),
            assigned(at, f"m-{some}", **to),
            *[message(at, count=draw.randint(1, 6))] * 2,
        )
    )


def days_of(seed):
    """Make up what comes on each day."""
    draw = random.Random(seed)
    channels = ("c-1", "c-2")
    days = []
    for number in range(DAYS):
        on = (FIRST_DAY + number * timedelta(days=1)).isoformat()
        lines = []
        if not number:
            lines += [registered(f"{on}T00:00:00+09:00", channel=each) for each in channels]
        for place in range(3):
            lines += orders_of(draw, draw.choice(channels), on, place)
        for minutes in sorted(draw.sample(range(1_200), draw.randint(0, 6))):
            lines.append(uses_of(draw, draw.choice(channels), on, minutes))
        days.append(lines)
    return days


def cuts_of(draw, lines, longest):
    """Cut lines that follow each other into batches of at most so many."""
    while lines:
        size = draw.randint(1, longest)
        yield lines[:size]
        lines = lines[size:]


def written(notices):
    """Count notices by all that they say."""
    return Counter(
        (channel, orjson.dumps(notice, option=orjson.OPT_SORT_KEYS)) for channel, notice in notices
    )


@pytest.mark.parametrize(
    ("longest", "room"), [(1, 2**20), (4, 2**20), (1_000, 2**20), (1, 0), (4, 0)]
)
@pytest.mark.parametrize("seed", [1, 2])
async def test_the_same_crossings_are_told_once(
    fresh_database_url, monkeypatch, seed, longest, room
):
    # Without room for it in memory, an account is loaded for each batch.
    monkeypatch.setattr(account_cache, "BYTES_MAX", room)
    days, draw = days_of(seed), random.Random(longest)
    lines = [line for day in days for line in day]
    expected = slow_model.simulate(lines, LATER)["channels"]

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        for day in days:
            for batch in cuts_of(draw, day, longest):
                now = clocks_of(batch)[-1]
                await reader.mark_read(now)
                # Whether the clock comes first makes no difference either.
                if draw.random() < 0.3:
                    await reader.settle(now)
                await reader.read(batch, now=now)
        await reader.settle(clocks_of([workflow(LATER, 1)])[0])
        connection = await asyncpg.connect(fresh_database_url)
        kept = await connection.fetch("SELECT * FROM lotmeter.notice")
        sent = await connection.fetch(
            "SELECT value FROM lotmeter.outbox WHERE destination = 'notices'"
        )
        await connection.close()

    wanted = written(
        (channel, notice) for channel, books in expected.items() for notice in books["notices"]
    )
    found = written(
        (
            row["channel"],
            {
                "kind": row["kind"],
                "product": row["product"],
                "on": row["on_day"].isoformat(),
                "detail": orjson.loads(row["detail"]),
            },
        )
        for row in kept
    )
    events = [orjson.loads(row["value"]) for row in sent]
    assert found == wanted
    assert written((event["subject"], event["data"]) for event in events) == wanted
    assert len({event["id"] for event in events}) == len(events)
    assert {event["data"]["kind"] for event in events} >= ALL_CROSSINGS
