"""Every metric is there from the start, and no label grows with customers."""

from collections import Counter
from types import SimpleNamespace

from prometheus_client import REGISTRY

from consumer import metrics
from metering.errors import REJECT_REASONS, Unavailable
from metering.meter import Receipt


class DatabaseError(Exception):
    def __init__(self, sqlstate):
        super().__init__()
        self.sqlstate = sqlstate


def sample(name, **labels):
    return REGISTRY.get_sample_value(name, labels)


def unavailable(sqlstate):
    error = Unavailable("the database does not answer")
    error.__cause__ = DatabaseError(sqlstate)
    return error


def test_children_of_closed_sets_are_there_before_anything_happens():
    metrics.prepare(["topic-of-this-test"])

    for outcome in metrics.OUTCOMES:
        labels = {"topic": "topic-of-this-test", "outcome": outcome}
        assert sample("lotmeter_records_total", **labels) == 0
    for reason in REJECT_REASONS:
        assert sample("lotmeter_rejected_total", reason=reason) is not None
    for source in metrics.SOURCES:
        labels = {"product": "workflow", "source": source}
        assert sample("lotmeter_units_booked_total", **labels) is not None
    assert sample("lotmeter_build_info", version=metrics._version()) == 1


def test_a_receipt_is_counted_in_units():
    receipt = Receipt(
        outcomes=Counter({("topic-a", "applied"): 3, ("topic-a", "rejected"): 1}),
        rejected=Counter({"malformed": 1}),
        booked=Counter({("pu", "own"): 57_500}),
        notices=Counter({"borrowing": 2}),
        late=1,
    )
    before = sample("lotmeter_units_booked_total", product="pu", source="own") or 0

    metrics.count(receipt)

    assert sample("lotmeter_records_total", topic="topic-a", outcome="applied") == 3
    assert sample("lotmeter_units_booked_total", product="pu", source="own") == before + 57.5
    assert sample("lotmeter_notices_total", kind="borrowing") >= 2


def test_a_large_batch_is_observed_in_samples():
    records = [SimpleNamespace(found=SimpleNamespace(at=1_000_000 * n)) for n in range(10_000)]
    before = sample("lotmeter_event_delay_seconds_count")

    metrics.observe_delays(records, now=20_000 * 1_000_000)

    assert 50 <= sample("lotmeter_event_delay_seconds_count") - before <= 100


def test_errors_of_the_database_are_told_apart():
    reasons = [
        metrics.count_database_error(unavailable(s)) for s in ("40P01", "53100", None, "XX000")
    ]

    assert reasons == ["contention", "resources", "connection", "other"]
    assert set(reasons) <= set(metrics.DATABASE_REASONS)
