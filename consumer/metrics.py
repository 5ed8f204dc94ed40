"""Every metric this service emits. Grep here before adding one.

Labels take values from closed sets written in this repository, or are partitions that this member
reads; channels stand only in two gauges, which are capped. Ids and error messages belong in logs:
as labels they never stop growing.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from metering.catalog import PRODUCTS
from metering.errors import REJECT_REASONS
from metering.quantities import THOUSAND
from metering.storage.database import sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from metering.catalog import Product
    from metering.meter import Receipt, Record

OUTCOMES = ("applied", "duplicate", "parked", "rejected")
SOURCES = ("included", "own", "carried", "borrowed", "postpaid", "minimum", "expired")
BATCH_RESULTS = ("recorded", "fenced", "unavailable")
ANCHOR_RESULTS = ("matched", "gone", "none", "broken")
DESTINATIONS = ("notices", "statements", "dead_letters")
RELAY_RESULTS = ("sent", "cut", "failed")
EXHAUSTIBLE = ("quota", "maximum", "lot", "limit")
SCOPES = ("quick", "full")

# What a database error is about, by class of SQLSTATE.
_DATABASE_REASONS = {
    "08": "connection",
    "25": "read_only",
    "28": "credentials",
    "40": "contention",
    "42": "schema",
    "53": "resources",
    "55": "lock",
    "57": "shutdown",
}
DATABASE_REASONS = ("other", *sorted(_DATABASE_REASONS.values()))

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DELAY_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400)
_RECORDS = (1, 10, 100, 1_000, 2_500, 5_000, 10_000, 20_000, 40_000, 80_000)

# Of a batch so many events say how late it is: observing each would cost more than decoding it.
_DELAYS_OBSERVED_MAX = 100


class CappedGauge(Collector):
    """A gauge whose series come and go, all at once: no scrape sees half of them."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self.name = name
        self.documentation = documentation
        self._labels = tuple(labels)
        self._values: Mapping[tuple[str, ...], float] = {}
        REGISTRY.register(self)

    def replace(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Show these series and no others."""
        self._values = values

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the metric to the registry, which refuses a second one of this name."""
        yield GaugeMetricFamily(self.name, self.documentation, labels=self._labels)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Write the series down."""
        family = GaugeMetricFamily(self.name, self.documentation, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


# The stream.
RECORDS = Counter(
    "lotmeter_records_total", "Records read, by what became of them.", ["topic", "outcome"]
)
REJECTED = Counter("lotmeter_rejected_total", "Records set aside, by reason.", ["reason"])
LATE = Counter("lotmeter_late_total", "Events counted in a later cycle: their own had closed.")
TAKEN_UP = Counter(
    "lotmeter_taken_up_total", "Records that had waited, by what became of them.", ["outcome"]
)
UNITS_BOOKED = Counter(
    "lotmeter_units_booked_total", "Units booked, by what paid for them.", ["product", "source"]
)
UNITS_RETURNED = Counter(
    "lotmeter_units_returned_total",
    "Units that a late event or a void took back, by what had paid for them.",
    ["product", "source"],
)
NOTICES = Counter("lotmeter_notices_total", "Notices issued, by kind.", ["kind"])
HOLES = Counter(
    "lotmeter_holes_total",
    "Offsets without a record: what Kafka keeps for itself, or has removed.",
)
BATCHES = Counter("lotmeter_batches_total", "Batches, by how they ended.", ["result"])
BATCH_SECONDS = Histogram(
    "lotmeter_batch_seconds", "From the first record of a batch to its commit.", buckets=_SECONDS
)
BATCH_RECORDS = Histogram("lotmeter_batch_records", "Records in a batch.", buckets=_RECORDS)
EVENT_DELAY = Histogram(
    "lotmeter_event_delay_seconds",
    "From the time of an event to its commit, of up to 100 events a batch.",
    buckets=_DELAY_SECONDS,
)
LAST_COMMIT = Gauge(
    "lotmeter_last_commit_timestamp_seconds", "When this member last committed a batch."
)

# Partitions.
LAG = Gauge(
    "lotmeter_consumer_lag",
    "Offsets between what is in the books and the end of a partition.",
    ["topic", "partition"],
)
OPEN_TRANSACTION = Gauge(
    "lotmeter_open_transaction_records",
    "Offsets that no one may read yet because a producer's transaction is open.",
    ["topic", "partition"],
)
ASSIGNED = Gauge("lotmeter_assigned_partitions", "Partitions that the group gave this member.")
LOADING = Gauge("lotmeter_loading_partitions", "Of these, partitions that are not read yet.")
HALTED = Gauge("lotmeter_halted_partitions", "Of these, partitions that must not be read on.")
REBALANCES = Counter("lotmeter_rebalances_total", "Times the group gave out its partitions.")
ANCHORS = Counter(
    "lotmeter_anchor_checks_total",
    "Looks at whether a log is the one that was read before, by what was found.",
    ["result"],
)
FENCED = Counter("lotmeter_fenced_total", "Batches dropped because a partition was claimed anew.")
FETCH_AGE = Gauge(
    "lotmeter_fetch_age_seconds",
    "How long the partition asked in vain the longest has not answered.",
)
LOOP_LAG = Histogram(
    "lotmeter_loop_lag_seconds", "How late the event loop wakes a sleeper.", buckets=_SECONDS
)
TASKS = Gauge("lotmeter_tasks", "Tasks of the event loop: what leaks shows here first.")

# The database.
DATABASE_RETRIES = Counter(
    "lotmeter_database_retries_total", "Things tried again, by what was wrong.", ["reason"]
)
DATABASE_ERRORS = Counter(
    "lotmeter_database_errors_total", "Errors of the database, by what was wrong.", ["reason"]
)

# The outbox.
RELAYED = Counter(
    "lotmeter_relayed_total",
    "Messages of the outbox, by what became of them; cut: too large, sent without its value.",
    ["destination", "result"],
)
OUTBOX_AGE = Gauge("lotmeter_outbox_age_seconds", "Age of the oldest message that waits.")
OUTBOX_BACKLOG = Gauge(
    "lotmeter_outbox_messages", "Messages that wait to be sent.", ["destination"]
)

# What the database says: the same on every member, so panels say max, not sum.
PARKED = Gauge("lotmeter_parked", "Records that wait for a channel or an event.")
DUE_OVERDUE = Gauge("lotmeter_due_overdue_seconds", "How long something due has not happened.")
READ_UP_TO = Gauge(
    "lotmeter_read_up_to_timestamp_seconds", "Up to when every partition of the group is read."
)
OBSERVED = Gauge(
    "lotmeter_observed_timestamp_seconds",
    "When all channels were last looked at; what they used up is as of then.",
)
CHANNELS_EXHAUSTED = Gauge(
    "lotmeter_channels_exhausted", "Channels that have used something up.", ["product", "what"]
)
USAGE_RATIO = CappedGauge(
    "lotmeter_channel_usage_ratio",
    "Share used, of the worst channels of each kind only.",
    ["channel", "product", "what"],
)
LOTS_EXPIRING = Gauge(
    "lotmeter_lots_expiring", "Lots that end within 30 days and are not renewed.", ["product"]
)
LOT_ENDS = CappedGauge(
    "lotmeter_lot_ends_timestamp_seconds",
    "When the first of these lots ends, of the channels that are next only.",
    ["channel", "product"],
)
VERIFIED = Gauge(
    "lotmeter_verified_timestamp_seconds",
    "When the books were last verified; 0: never.",
    ["scope"],
)
VERIFIED_OK = Gauge(
    "lotmeter_verified_ok", "Whether the last verification found no difference.", ["scope"]
)

BUILD = Gauge("lotmeter_build_info", "Always 1; the label says what runs.", ["version"])


def prepare(topics: Iterable[str]) -> None:
    """Show every child from the start, so that its first increase is seen."""
    for topic in topics:
        for outcome in OUTCOMES:
            RECORDS.labels(topic, outcome)
    for product in PRODUCTS.values():
        _prepare_product(product)
    for destination in DESTINATIONS:
        OUTBOX_BACKLOG.labels(destination)
        for result in RELAY_RESULTS:
            RELAYED.labels(destination, result)
    closed: list[tuple[Counter | Gauge, Iterable[str]]] = [
        (REJECTED, REJECT_REASONS),
        (TAKEN_UP, OUTCOMES),
        (BATCHES, BATCH_RESULTS),
        (ANCHORS, ANCHOR_RESULTS),
        (DATABASE_RETRIES, DATABASE_REASONS),
        (DATABASE_ERRORS, DATABASE_REASONS),
        (VERIFIED, SCOPES),
        (VERIFIED_OK, SCOPES),
    ]
    for metric, values in closed:
        for value in values:
            metric.labels(value)
    BUILD.labels(_version()).set(1)


def _prepare_product(product: Product) -> None:
    LOTS_EXPIRING.labels(product.name)
    if product.is_metered:
        for source in SOURCES:
            UNITS_BOOKED.labels(product.name, source)
            UNITS_RETURNED.labels(product.name, source)
        for what in exhaustible(product):
            CHANNELS_EXHAUSTED.labels(product.name, what)


def exhaustible(product: Product) -> tuple[str, ...]:
    """Name what a channel can use up of a product."""
    return EXHAUSTIBLE if product.is_windowed else ("lot", "limit")


def count(receipt: Receipt) -> None:
    """Count what a batch came to, once it is committed."""
    for (topic, outcome), records in receipt.outcomes.items():
        RECORDS.labels(topic, outcome).inc(records)
    for reason, records in receipt.rejected.items():
        REJECTED.labels(reason).inc(records)
    for outcome, records in receipt.taken_up.items():
        TAKEN_UP.labels(outcome).inc(records)
    LATE.inc(receipt.late)
    for (product, source), quantity in receipt.booked.items():
        UNITS_BOOKED.labels(product, source).inc(quantity / THOUSAND)
    for (product, source), quantity in receipt.returned.items():
        UNITS_RETURNED.labels(product, source).inc(quantity / THOUSAND)
    for kind, notices in receipt.notices.items():
        NOTICES.labels(kind).inc(notices)


def observe_delays(records: Sequence[Record], *, now: int) -> None:
    """Observe how long events of a batch took from their own time to now."""
    for record in records[:: 1 + len(records) // _DELAYS_OBSERVED_MAX]:
        at = getattr(record.found, "at", None)
        if at is not None:
            EVENT_DELAY.observe(max(0, now - at) / 1_000_000)


def count_database_error(error: BaseException) -> str:
    """Count an error of the database; returns what was wrong."""
    state = None
    cause: BaseException | None = error
    while state is None and cause is not None:
        state, cause = sqlstate_of(cause), cause.__cause__
    reason = "connection" if state is None else _DATABASE_REASONS.get(state[:2], "other")
    DATABASE_ERRORS.labels(reason).inc()
    return reason


def _version() -> str:
    try:
        return version("lotmeter")
    except PackageNotFoundError:
        return "unknown"
