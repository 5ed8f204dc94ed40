"""However a scenario is cut into transactions, the database gives the books of the pure domain.

Slower than the other properties, so few examples; LOTMETER_EFFORT tries more.
"""

import json
import os

import pytest

from consumer import simulate
from consumer.decoding import instant_from
from metering.catalog import shipped_catalog
from metering.meter import Meter
from tests.builders import contacts, registered, voided, workflow
from tests.compare import differences
from tests.fakes import simulate_in_memory
from tests.properties.effort import EFFORT
from tests.random_scenarios import scenario

SEEDS = range(max(1, round(5 * EFFORT)))
LINES = (20, 45, 70)

pytestmark = pytest.mark.skipif(
    "MUTANT_UNDER_TEST" in os.environ, reason="mutants are hunted without servers"
)


@pytest.fixture
def books_through_the_database(tmp_path, monkeypatch, database_url):
    """Return what gives the document of a scenario that is cut into transactions of some lines."""

    async def run(lines, as_of, *, lines_max):
        path = tmp_path / "scenario.ndjson"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        monkeypatch.setattr(simulate, "LINES_MAX", lines_max)
        simulation = await simulate.simulate(
            simulate.read_scenario(path),
            shipped_catalog(),
            as_of=instant_from(as_of),
            database_url=database_url,
        )
        assert simulation.differences == []
        return simulation.document

    return run


@pytest.fixture
def forgetful(monkeypatch):
    """Let the meter forget after every batch all that it keeps in memory."""
    record = Meter.record

    async def record_and_forget(self, batch, **clocks):
        receipt = await record(self, batch, **clocks)
        self._accounts.clear()
        self._known_channels.clear()
        self._months.clear()
        return receipt

    monkeypatch.setattr(Meter, "record", record_and_forget)


@pytest.mark.parametrize("lines_max", [1, 7, 1000])
@pytest.mark.parametrize("seed", SEEDS)
async def test_transactions_of_any_size_give_the_same_books(
    books_through_the_database, seed, lines_max
):
    lines, as_of = scenario(seed, lines=LINES[seed % len(LINES)])

    document = await books_through_the_database(lines, as_of, lines_max=lines_max)

    assert not differences(document, simulate_in_memory(lines, as_of))


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("lines_max", [1, 7])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_meter_that_forgets_every_account_gives_the_same_books(
    books_through_the_database, seed, lines_max
):
    lines, as_of = scenario(1000 + seed, lines=LINES[seed % len(LINES)])

    document = await books_through_the_database(lines, as_of, lines_max=lines_max)

    assert not differences(document, simulate_in_memory(lines, as_of))


@pytest.mark.parametrize("lines_max", [1, 2, 3, 1000])
async def test_a_void_that_waits_for_its_channel_and_then_for_its_event_takes_it_back(
    books_through_the_database, lines_max
):
    used = workflow("2024-01-05", 3)
    lines = [
        voided("2024-01-05", used),
        registered("2024-01-06"),
        contacts("2024-01-07", 5),
        used | {"clock": "2024-01-08T00:00:00Z"},
    ]

    document = await books_through_the_database(lines, "2024-01-31T00:00:00Z", lines_max=lines_max)

    [cycle] = document["channels"]["c-1"]["cycles"]
    assert list(cycle["products"]) == ["mu"]
    assert document["outcomes"]["applied"] == 4
