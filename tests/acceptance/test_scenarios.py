"""The scenarios that were worked out beforehand give their books, to the last notice."""

import json
from pathlib import Path

import pytest

from consumer.decoding import instant_from
from consumer.simulate import read_scenario, simulate
from metering.catalog import shipped_catalog
from tests.compare import differences

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"


@pytest.mark.parametrize("name", sorted(path.stem for path in SCENARIOS.glob("*.ndjson")))
async def test_a_scenario_gives_the_books_that_it_must_give(name, database_url):
    lines = read_scenario(SCENARIOS / f"{name}.ndjson")
    as_of = instant_from((SCENARIOS / f"{name}.as-of").read_text().strip())
    expected = json.loads((SCENARIOS / f"{name}.expected.json").read_text(encoding="utf-8"))

    simulation = await simulate(lines, shipped_catalog(), as_of=as_of, database_url=database_url)

    found = differences(simulation.document, expected)
    assert not found, "\n".join(map(str, found[:20]))
