"""Members that look at the same time for what is due find different channels."""

from contextlib import asynccontextmanager

import asyncpg
import pytest

from metering.periods import HOUR
from metering.storage import account_store
from tests.builders import contacts, registered, workflow
from tests.replaying import Reader, clocks_of, fresh_books

CHANNELS = 6
REGISTERED, LATER = "2024-01-10", "2024-03-05"
HORIZON = 35 * 24 * HOUR


def life_of(number, reason):
    """Tell of a channel to which something is due: a level begins the next cycle, a cycle closes,
    or a registration never comes.
    """
    to = {"channel": f"c-{number}"}
    use = contacts(REGISTERED, 5, **to) if reason == "due" else workflow(REGISTERED, 5, **to)
    return [use] if reason == "parked" else [registered(REGISTERED, **to), use]


@asynccontextmanager
async def two_members(url, lines):
    """Yield two connections to the books of some lines."""
    async with fresh_books(url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read(lines)
    connections = [
        await asyncpg.connect(url, server_settings={"search_path": "lotmeter"}) for _ in range(2)
    ]
    try:
        yield connections
    finally:
        for connection in connections:
            await connection.close()


async def due_to(member, channels_max, *, closing=True):
    later = clocks_of([workflow(LATER, 1)])[0]
    names, _ = await account_store.lock_due(
        member,
        now=later,
        closing_clock=later if closing else 0,
        parked_before=later - HORIZON,
        channels_max=channels_max,
    )
    return names


@pytest.mark.parametrize("reason", ["due", "closing", "parked"])
async def test_what_one_member_has_locked_another_looks_past(fresh_database_url, reason):
    lines = [line for number in range(CHANNELS) for line in life_of(number, reason)]

    async with (
        two_members(fresh_database_url, lines) as (one, other),
        one.transaction(),
        other.transaction(),
    ):
        first = await due_to(one, 3, closing=reason == "closing")
        second = await due_to(other, 3, closing=reason == "closing")

    assert len(first) == len(second) == 3
    assert not set(first) & set(second)


async def test_whatever_is_due_is_found_once(fresh_database_url):
    reasons = ("due", "closing", "parked")
    lines = [line for number in range(CHANNELS) for line in life_of(number, reasons[number % 3])]

    async with two_members(fresh_database_url, lines) as (one, _), one.transaction():
        names = await due_to(one, CHANNELS)

    assert names == [f"c-{number}" for number in range(CHANNELS)]
