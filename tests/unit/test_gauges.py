"""What is seen of the channels stays small and true, however many they are and whatever their
names.
"""

from datetime import date

import orjson
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumer import metrics
from consumer.gauges import Tour, _overdue_seconds, show
from metering.periods import SECOND
from metering.storage.observation_store import Pulse, Standing

CHANNELS = 100_000
CHANNELS_A_SLICE = 1_000
WORST_MAX = 20
HOSTILE = ['a"b', "a\\b", "a\nb", "{x='y'}", "채널-1", "🦣" * 255, "a,b", " ", "\u202e", "a\tb"]
HOUR = 3_600 * SECOND


def standing(channel, ratio, *, product="workflow", limit=None, ends_on=None):
    return Standing(channel, product, ratio, ratio / 6, limit, int(ends_on is not None), ends_on)


def seen(slices, *, worst_max=WORST_MAX):
    tour = Tour(worst_max)
    for standings in slices:
        tour.take(standings, {each.channel: "Asia/Seoul" for each in standings})
    # As the database keeps it.
    return orjson.loads(orjson.dumps(tour.document()))


def series(name):
    families = text_string_to_metric_families(generate_latest(REGISTRY).decode())
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        if family.name == name
        for sample in family.samples
    }


def test_a_hundred_thousand_channels_of_any_name_make_few_series():
    names = [f"{HOSTILE[n % len(HOSTILE)]}-{n}"[-255:] for n in range(CHANNELS)]
    slices = (
        [
            standing(name, 1 + n / CHANNELS, product=product, limit=2.0, ends_on=date(2030, 1, 1))
            for n, name in enumerate(names[start : start + CHANNELS_A_SLICE], start)
            for product in ("workflow", "marketing")
        ]
        for start in range(0, CHANNELS, CHANNELS_A_SLICE)
    )

    show(seen(slices))

    ratios = series("lotmeter_channel_usage_ratio")
    assert len(ratios) == WORST_MAX * len(metrics.EXHAUSTIBLE)
    assert len(series("lotmeter_lot_ends_timestamp_seconds")) == WORST_MAX
    # The worst ones are those with the highest numbers, each under the name that it has.
    worst = {name for name, _, what in ratios if what == "quota"}
    assert worst == set(names[-WORST_MAX // 2 :])
    assert series("lotmeter_channels_exhausted")["workflow", "quota"] == CHANNELS
    assert series("lotmeter_channels_exhausted")["workflow", "maximum"] == 0
    assert series("lotmeter_lots_expiring")["marketing",] == CHANNELS


def test_channels_that_are_well_again_are_shown_no_more():
    show(seen([[standing("was-bad", 1.5)]]))
    show(seen([[standing("is-bad", 1.2)]]))

    assert {name for name, *_ in series("lotmeter_channel_usage_ratio")} == {"is-bad"}
    show(seen([]))
    assert series("lotmeter_channel_usage_ratio") == {}
    assert series("lotmeter_channels_exhausted")["workflow", "quota"] == 0


def test_a_small_problem_is_not_hidden_by_greater_ones_of_another_kind():
    busy = [standing(f"busy-{n}", 2.0) for n in range(100)]

    show(seen([[*busy, standing("limited", 0.1, limit=1.0)]]))

    assert series("lotmeter_channel_usage_ratio")["limited", "workflow", "limit"] == 1.0


def test_nobody_is_shown_where_nobody_shall_be():
    show(seen([[standing("c-1", 1.5, ends_on=date(2030, 1, 1))]], worst_max=0))

    assert series("lotmeter_channel_usage_ratio") == {}
    assert series("lotmeter_lot_ends_timestamp_seconds") == {}
    assert series("lotmeter_channels_exhausted")["workflow", "quota"] == 1


def test_a_lot_ends_with_its_last_day_where_the_channel_is():
    show(seen([[standing("c-1", 0.5, ends_on=date(2030, 1, 1))]]))

    midnight_in_seoul = 1893510000
    assert series("lotmeter_lot_ends_timestamp_seconds") == {("c-1", "workflow"): midnight_in_seoul}


def pulse(**known):
    return Pulse(**dict.fromkeys(Pulse._fields) | {"parked": 0} | known)


def test_only_what_should_have_happened_is_overdue():
    now, horizon = 1_000 * HOUR, 35 * 24 * HOUR

    def overdue(**known):
        return _overdue_seconds(pulse(**known), horizon, now=now) / 3_600

    assert overdue() == 0
    assert overdue(due_at=now + HOUR) == 0
    assert overdue(due_at=now - HOUR) == 1
    assert overdue(parked_at=now - horizon + HOUR) == 0
    assert overdue(parked_at=now - horizon - HOUR) == 1
    # A cycle waits for every partition on purpose; when all are read, nothing holds it any more.
    assert overdue(closes_at=now - 5 * HOUR, read_up_to=now - 9 * HOUR) == 0
    assert overdue(closes_at=now - 5 * HOUR, read_up_to=now - 3 * HOUR) == 2
    assert overdue(closes_at=now - 5 * HOUR) == 0
