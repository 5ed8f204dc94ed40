"""A year of forty channels, with every kind of command in random order, day by day: the domain and
the slow model give the same books, and so does the database.

About a minute; LOTMETER_EFFORT=20 tries twenty years.
"""

import os
import random
from bisect import bisect_right
from datetime import timedelta
from itertools import pairwise

import pytest

from consumer.decoding import instant_from
from metering.periods import instant_of, moment_of
from metering.verification import verify
from tests.compare import differences
from tests.fakes import MemoryMeter
from tests.properties.effort import EFFORT
from tests.random_scenarios import year
from tests.replaying import Reader, clocks_of, fresh_books
from tests.slow_model import Simulation

CHANNELS = 40
LINES = 1_200
SEEDS = range(1, 1 + max(1, round(EFFORT)))
COMMANDS = {
    "channel.registered",
    "channel.changed",
    "limit.set",
    "lot.purchased",
    "lot.scheduled",
    "reservation.changed",
    "reservation.cancelled",
    "lot.renewal_set",
    "lot.refunded",
}
# How often the database is looked at, at any ends of days.
LOOKS = 20
# In these the lots of the first weeks end, and are renewed.
SILENT_DAYS = 45


def ends_of_days(since, until):
    """List the ends of the days, in UTC, from one instant to another."""
    day = moment_of(since).replace(hour=0, minute=0, second=0, microsecond=0)
    while (day := day + timedelta(days=1)) < moment_of(until):
        yield instant_of(day)


def assert_same(found, expected, at):
    if found != expected:
        print(at)
        assert not differences(found, expected)


def story_of(seed):
    lines, told_until = year(seed, channels=CHANNELS, lines=LINES)
    end = moment_of(instant_from(told_until)) + timedelta(days=SILENT_DAYS)
    return lines, end.isoformat()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_model_agrees_about_every_day_of_a_year(seed):
    lines, end = story_of(seed)
    clocks = [*clocks_of(lines), instant_from(end)]
    meter, model = MemoryMeter(), Simulation()

    days = 0
    for line, (clock, following) in zip(lines, pairwise(clocks), strict=True):
        meter.take([line])
        model.take(line)
        for instant in ends_of_days(clock, following):
            at = moment_of(instant)
            meter.wait_until(at.isoformat())
            model.move(at)
            assert_same(meter.document(), model.document(), at)
            days += 1

    assert days >= 365
    assert {line["event"]["type"] for line in lines if "event" in line} >= COMMANDS


@pytest.mark.skipif("MUTANT_UNDER_TEST" in os.environ, reason="mutants are hunted without servers")
@pytest.mark.parametrize("seed", SEEDS)
async def test_the_database_holds_the_same_year(fresh_database_url, seed):
    lines, end = story_of(seed)
    clocks = [*clocks_of(lines), instant_from(end)]
    draw, meter = random.Random(seed), MemoryMeter()
    looks = sorted(draw.sample(list(ends_of_days(clocks[0], clocks[-1])), LOOKS))

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        read = 0
        for look in [*looks, clocks[-1]]:
            until = bisect_right(clocks[:-1], look)
            meter.take(lines[read:until])
            meter.wait_until(moment_of(look).isoformat())
            while read < until:
                following = min(until, read + draw.choice((1, 3, 20, 100)))
                await reader.read(lines[read:following])
                read = following
            await reader.settle(look)

            found = await reader.documents(look)
            assert_same({"channels": found}, {"channels": meter.document()["channels"]}, look)
        report = await verify(engine, reader.catalog, full=True)

    assert report.differences == []
