"""The slow model gives the books that were worked out beforehand, so it can judge others."""

import json
from pathlib import Path

import pytest

from tests.compare import differences
from tests.random_scenarios import scenario
from tests.slow_model import simulate

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"


@pytest.mark.parametrize("name", sorted(path.stem for path in SCENARIOS.glob("*.ndjson")))
def test_the_slow_model_gives_the_expected_books(name):
    text = (SCENARIOS / f"{name}.ndjson").read_text(encoding="utf-8")
    # Split on newlines only: a text may hold other characters that separate lines.
    lines = [json.loads(line) for line in text.split("\n") if line]
    as_of = (SCENARIOS / f"{name}.as-of").read_text().strip()
    expected = json.loads((SCENARIOS / f"{name}.expected.json").read_text(encoding="utf-8"))

    found = differences(simulate(lines, as_of), expected)

    assert not found, "\n".join(map(str, found[:20]))


@pytest.mark.parametrize("features", [{"books"}, {"lots"}], ids=["books", "lots"])
def test_every_line_of_a_random_scenario_has_one_outcome(features):
    lines, as_of = scenario(7, lines=80, features=features)

    outcomes = simulate(lines, as_of)["outcomes"]

    counted = sum(outcomes[name] for name in ("applied", "duplicate", "parked"))
    assert counted + sum(outcomes["rejected"].values()) == len(lines)


def test_a_seed_always_makes_the_same_scenario():
    assert scenario(3, lines=50) == scenario(3, lines=50)
