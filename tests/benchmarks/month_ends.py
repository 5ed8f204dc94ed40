"""Channels whose month ends at one midnight: as they were before it, and what it must bring."""

from __future__ import annotations

from calendar import monthrange
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import asyncpg
import orjson

from consumer.readers import decoder_for
from metering.catalog import shipped_catalog
from metering.meter import Batch, Meter, Partition, Record, Slice
from metering.periods import instant_of
from metering.storage.database import create_engine
from tests.benchmarks.books import WrongBooks
from tests.benchmarks.population import LAST_BILLING_DAY, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

ZONE = "Asia/Seoul"
# Where the channels are read from when they are taken in.
COMMANDS, USAGE = "commands", "usage"
CHANNELS_A_BATCH = 1_000
CONTACTS, CONTACTS_BOUGHT = 1_500, 1_000
ACTIONS, ACTIONS_BOUGHT = 30, 100

# What midnight must have brought: the minimum that the actions of the ended window left open, and
# the contacts that the new cycle began with, by where they came from.
EXPECTED = {
    ("workflow", "minimum"): ACTIONS_BOUGHT // 2 - ACTIONS,
    ("mu", "own"): 2 * CONTACTS_BOUGHT - CONTACTS,
    ("mu", "borrowed"): 2 * (CONTACTS - CONTACTS_BOUGHT),
    ("basic_seat", "postpaid"): 1,
}
_BROUGHT = """
SELECT product, source, count(DISTINCT channel) AS channels, sum(quantity)::bigint / 1000 AS units
FROM lotmeter.fill WHERE on_day = $1 AND product IN ('mu', 'basic_seat') OR source = 'minimum'
GROUP BY product, source
"""


class Midnight(NamedTuple):
    """When the months end, and began."""

    ends_at: datetime
    began_at: datetime
    billing_day: int | str


def latest_midnight(now: datetime) -> Midnight:
    """Find the latest midnight on which a month can end: some days are no billing days."""
    day = now.astimezone(ZoneInfo(ZONE)).replace(hour=0, minute=0, second=0, microsecond=0)
    while day.day > LAST_BILLING_DAY and day.day < monthrange(day.year, day.month)[1]:
        day -= timedelta(days=1)
    last = day.replace(day=1) - timedelta(days=1)
    if day.day <= LAST_BILLING_DAY:
        return Midnight(day, last.replace(day=day.day), day.day)
    return Midnight(day, last, "end")


# The channels as they were before midnight


def records_of(number: int, midnight: Midnight) -> Iterator[tuple[str, dict[str, object]]]:
    """Tell of one channel: topics and events."""
    registration = {
        "plan": "enterprise",
        "time_zone": ZONE,
        "billing_day": midnight.billing_day,
    }
    lots = (("mu", CONTACTS_BOUGHT), ("workflow", ACTIONS_BOUGHT))
    told = [
        (COMMANDS, "channel.registered", registration),
        *(
            (COMMANDS, "lot.purchased", {"lot": f"l-{name}", "product": name, "quantity": units})
            for name, units in lots
        ),
        (USAGE, "mu.counted", {"count": CONTACTS}),
        (USAGE, "workflow.executed", {"actions": ACTIONS}),
        (USAGE, "seat.assigned", {"seat": "basic", "manager": "m-1"}),
    ]
    for place, (topic, kind, data) in enumerate(told):
        at = midnight.began_at + timedelta(hours=12, seconds=place)
        yield topic, an_event(number, kind, f"{kind}-{place}", at, data)


def an_event(
    number: int, kind: str, event_id: str, at: datetime, data: dict[str, object]
) -> dict[str, object]:
    """Write an event of a channel."""
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/bench",
        "type": kind,
        "subject": name_of(number),
        "time": at.isoformat(),
        "data": data,
    }


async def populate(url: str, channels: int, midnight: Midnight) -> None:
    """Take in the channels with the clock a month back, by the code that reads them otherwise."""
    catalog = shipped_catalog()
    decode = decoder_for(catalog, commands_topic=COMMANDS, usage_topics=(USAGE,))
    engine = create_engine(url, connections=2)
    clock = instant_of(midnight.began_at + timedelta(hours=13))
    try:
        meter = Meter(engine, catalog, decode, group="population")
        partitions = {Partition(topic, 0): 0 for topic in (COMMANDS, USAGE)}
        claims = {
            claim.partition.topic: claim
            for claim in await meter.claim(partitions, owner="bench", cluster_id="bench")
        }
        offsets = dict.fromkeys(claims, 0)
        for first in range(0, channels, CHANNELS_A_BATCH):
            before, records = dict(offsets), []
            for number in range(first, min(channels, first + CHANNELS_A_BATCH)):
                for topic, event in records_of(number, midnight):
                    place = claims[topic].number, offsets[topic]
                    value = orjson.dumps(event)
                    found = decode(topic, value, ())
                    records.append(Record(*place, clock, topic, None, value, (), found))
                    offsets[topic] += 1
            slices = [
                Slice(claim, before[topic], offsets[topic], None, clock)
                for topic, claim in sorted(claims.items())
            ]
            await meter.record(Batch(slices, records), now=clock)
    finally:
        await engine.dispose()


async def check(url: str, channels: int, midnight: Midnight) -> None:
    """Hold what midnight brought against what it must. Raises WrongBooks."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(_BROUGHT, midnight.ends_at.date())
    finally:
        await connection.close()
    found = {(row["product"], row["source"]): (row["channels"], row["units"]) for row in rows}
    expected = {key: (channels, channels * units) for key, units in EXPECTED.items()}
    if found != expected:
        raise WrongBooks(f"midnight must bring {expected}, found {found}")
