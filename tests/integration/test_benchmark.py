"""The benchmark measures right books only."""

from datetime import UTC, datetime

import pytest

from tests.benchmarks.books import WrongBooks
from tests.benchmarks.delay import _quantile
from tests.benchmarks.runs import Bench, Scenario
from tests.benchmarks.stack import Stack
from tests.benchmarks.workload import Manifest

# One member reads so few events before another could join.
SMALL = Scenario("small", channels=20, duplicates_percent=10, is_skewed=True, members=1)


async def test_a_run_counts_only_if_the_books_are_what_was_sent(database_url, broker, monkeypatch):
    stack = Stack(broker, database_url, "embedded", {})
    async with Bench(stack, now=datetime.now(UTC)) as bench:
        [result] = await bench.measure(SMALL, events=3_000, runs=1)
        assert result.document()["rates"][0] > 0
        assert result.proved_seconds > 0
        poured = {"included", "own", "carried", "borrowed", "postpaid", "minimum"}
        assert result.units.keys() == poured

        right = Manifest.totals
        monkeypatch.setattr(
            Manifest, "totals", lambda self: {**right(self), ("channel-000003", "workflow"): 1}
        )
        with pytest.raises(WrongBooks, match=r"^1 totals are not what was sent"):
            await bench.measure(SMALL, events=3_000, runs=1)


def test_quantile_weighs_delays_by_their_events():
    late = [(0.1, 98), (0.5, 1), (2.0, 1)]
    assert _quantile(late, 0.5) == 0.1
    assert _quantile(late, 0.99) == 0.5
    assert _quantile(late, 1.0) == 2.0
