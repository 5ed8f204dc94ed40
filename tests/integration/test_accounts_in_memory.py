"""Accounts stay in memory between batches, as many as there is room for."""

import json

import pytest

from consumer import simulate
from consumer.decoding import instant_from
from metering import meter
from metering.catalog import shipped_catalog
from tests.builders import purchased, registered, workflow

CHANNELS = [f"c-{number}" for number in range(6)]


@pytest.fixture
def kept(monkeypatch):
    """Note how many accounts were kept after each batch."""
    counts = []
    finish = meter.Meter._finish

    def noting(self, work):
        receipt = finish(self, work)
        counts.append(len(self._accounts))
        assert self._accounts_bytes == sum(size for _, size in self._accounts.values())
        return receipt

    monkeypatch.setattr(meter.Meter, "_finish", noting)
    monkeypatch.setattr(simulate, "LINES_MAX", 2)
    return counts


async def books(database_url):
    lines = [registered("2024-01-02", channel=channel) for channel in CHANNELS]
    lines += [purchased("2024-01-03", "workflow", 10, channel=channel) for channel in CHANNELS]
    lines += [workflow(f"2024-01-0{day}", day, channel=c) for day in (4, 5, 6) for c in CHANNELS]
    simulation = await simulate.simulate(
        [simulate._line(json.dumps(line)) for line in lines],
        shipped_catalog(),
        as_of=instant_from("2024-03-20T00:00:00Z"),
        database_url=database_url,
    )
    assert simulation.differences == []
    return simulation.document


async def test_no_more_accounts_are_kept_than_there_is_room_for(database_url, kept, monkeypatch):
    with_room = await books(database_url)
    assert max(kept) == len(CHANNELS)
    kept.clear()

    # Room for two of these, or less once they have many days.
    monkeypatch.setattr(meter, "ACCOUNTS_BYTES_MAX", 40_000)
    without = await books(database_url)

    assert max(kept[-3:]) <= 2
    assert without == with_room
