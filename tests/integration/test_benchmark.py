"""The benchmark measures right books only."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from metering.periods import instant_of
from metering.storage import event_store
from tests.benchmarks.books import WrongBooks
from tests.benchmarks.delay import WARM_SECONDS, _quantile
from tests.benchmarks.population import CLOSING_HOURS, Population
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


async def test_each_stream_is_measured_by_itself(database_url, broker):
    stack = Stack(broker, database_url, "embedded", {})
    async with Bench(stack, now=datetime.now(UTC)) as bench:
        # Each has its books held against what was sent.
        for rate in (100, 200):
            found = await bench.delays(SMALL, events=3_000, rate=rate, seconds=WARM_SECONDS + 1)
            assert found["name"] == "small"
            assert found["events"] == rate
            assert 0.1 < found["p50"] <= found["p99"] <= found["longest"]


async def test_a_database_in_use_has_events_and_lots_of_every_channel(database_url, broker):
    now = datetime.now(UTC)
    stack = Stack(broker, database_url, "embedded", {})
    async with Bench(stack, now=now) as bench:
        scenario = replace(SMALL, month_before=400, lots_over=2)
        base = await bench._base(scenario, 3_000)
        async with bench._in_use(scenario, base) as found:
            books = await asyncpg.connect(
                stack.url_of(found.database), server_settings={"search_path": "lotmeter"}
            )
            try:
                events = await books.fetch(
                    "SELECT month, count(DISTINCT channel), count(*) FROM event GROUP BY 1"
                )
                lots = await books.fetchrow(
                    "SELECT count(*), count(*) FILTER (WHERE ends_on > now() - interval '9 months')"
                    " AS open, count(DISTINCT channel) AS channels FROM lot"
                )
                windows = await books.fetchval("SELECT count(*) FROM lot_window WHERE taken > 0")
            finally:
                await books.close()

    assert events == [(event_store.month_of(instant_of(now)) - 1, 20, 400)]
    assert lots["count"] == 3 * lots["open"]
    assert lots["channels"] == 20
    assert windows > 12 * lots["open"]


@pytest.mark.parametrize("days", [2, 26])
def test_no_cycle_closes_while_channels_buy_their_lots(days):
    for day in range(366):
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)
        population = Population(1, events_each=1, days=days, now=now, mark="bench")
        # There the cycle before ended.
        closes = population.begins + timedelta(hours=CLOSING_HOURS)
        assert closes > now + timedelta(days=1)


def test_quantile_weighs_delays_by_their_events():
    late = [(0.1, 98), (0.5, 1), (2.0, 1)]
    assert _quantile(late, 0.5) == 0.1
    assert _quantile(late, 0.99) == 0.5
    assert _quantile(late, 1.0) == 2.0
