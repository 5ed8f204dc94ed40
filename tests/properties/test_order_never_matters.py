"""For the same decided commands the books of open cycles are a function of the set of events."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import line
from tests.fakes import MemoryMeter
from tests.properties.effort import examples
from tests.properties.narrow import CHANNEL, ORDERS, REGISTRATION, USES, many

USAGE_TOPICS = ("usage.mu", "usage.seat", "usage.workflow", "usage.message")
REGISTERED_AT = datetime(2024, 1, 1, 12, tzinfo=UTC)
ORDERED_AT = datetime(2024, 1, 28, 12, tzinfo=UTC)
# January is over and still open, in every zone.
READ_AT = datetime(2024, 2, 2, 12, tzinfo=UTC)
AS_OF = "2024-02-03T00:00:00Z"


def at_any_time(acts, until):
    """Pair acts with a time of their own, mostly on an edge of a day."""
    hours = int((until - REGISTERED_AT) / timedelta(hours=1))
    days = st.integers(0, hours // 24).map(lambda day: 24 * day)
    return st.tuples(acts, st.one_of(days, st.integers(0, hours)))


def read_once(acts):
    """Give each act an identity of its own, but for voids, which name the others by theirs."""
    numbered = []
    for number, act in enumerate(acts):
        is_void = act.kind == "usage.voided"
        numbered.append(replace(act, event_id=f"v-{number}" if is_void else f"e-{number}"))
    return numbered


def written(act, hours, *, zone, clock, topic=None):
    begins = REGISTERED_AT.astimezone(zone).replace(hour=0, minute=0)
    at = begins + timedelta(hours=hours)
    return line(
        topic or act.topic,
        act.kind,
        at.isoformat(),
        act.data,
        event_id=act.event_id,
        channel=CHANNEL,
        clock=clock.isoformat(),
    )


@st.composite
def beginnings(draw):
    """Make up a channel of two open cycles with commands that are all decided; return its lines."""
    registration = draw(REGISTRATION)
    registration = replace(registration, data=registration.data | {"billing_day": 1})
    zone = ZoneInfo(registration.data["time_zone"])
    lines = [written(registration, 0, zone=zone, clock=REGISTERED_AT)]
    for act, hours in draw(many(at_any_time(ORDERS, ORDERED_AT), 8)):
        lines.append(written(act, hours, zone=zone, clock=ORDERED_AT))
    return zone, lines


@st.composite
def uses(draw, zone):
    acts = draw(many(at_any_time(USES, READ_AT), 14))
    numbered = read_once([act for act, _ in acts])
    return [
        written(act, hours, zone=zone, clock=READ_AT)
        for act, (_, hours) in zip(numbered, acts, strict=True)
    ]


def books_of(meter):
    """Return the books of the channel: notices tell what was seen on the way."""
    [channel] = meter.document()["channels"].values()
    return {name: channel[name] for name in ("cycles", "lots", "reservations")}


def books_after(lines):
    meter = MemoryMeter()
    meter.take(lines)
    meter.wait_until(AS_OF)
    return books_of(meter)


@examples(100)
@given(st.data())
def test_any_order_gives_the_same_books(data):
    zone, beginning = data.draw(beginnings())
    used = data.draw(uses(zone))
    shuffled = data.draw(st.permutations(used))

    assert books_after([*beginning, *shuffled]) == books_after([*beginning, *used])


@examples(60)
@given(st.data())
def test_any_copies_give_the_same_books(data):
    zone, beginning = data.draw(beginnings())
    used = data.draw(uses(zone))
    copies = data.draw(st.lists(st.sampled_from(used), max_size=10)) if used else []
    places = data.draw(st.lists(st.integers(0, len(used)), min_size=10, max_size=10))
    repeated = list(used)
    for copy, place in zip(copies, places, strict=False):
        repeated.insert(place, copy)

    assert books_after([*beginning, *repeated]) == books_after([*beginning, *used])


@examples(60)
@given(st.data())
def test_any_topics_give_the_same_books(data):
    zone, beginning = data.draw(beginnings())
    used = data.draw(uses(zone))
    topics = [data.draw(st.sampled_from(USAGE_TOPICS)) for _ in used]
    elsewhere = [each | {"topic": topic} for each, topic in zip(used, topics, strict=True)]

    assert books_after([*beginning, *elsewhere]) == books_after([*beginning, *used])


@examples(100)
@given(st.data())
def test_any_batches_give_the_same_books(data):
    zone, beginning = data.draw(beginnings())
    used = data.draw(uses(zone))
    lines = data.draw(st.permutations(used))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(lines)))) | {0, len(lines)})
    in_batches = MemoryMeter()
    # Commands are decided once, against the books as they then stand: what is due before them is
    # not the same in other batches.
    in_batches.take(beginning)

    for start, stop in pairwise(cuts):
        in_batches.take_batch(lines[start:stop])
    in_batches.wait_until(AS_OF)

    assert books_of(in_batches) == books_after([*beginning, *used])


@examples(60)
@given(st.data())
def test_uses_that_wait_for_their_channel_give_the_same_books(data):
    zone, beginning = data.draw(beginnings())
    used = data.draw(uses(zone))
    registration, *orders = [each | {"clock": READ_AT.isoformat()} for each in beginning]
    place = data.draw(st.integers(0, len(used)))
    waited = [*used[:place], registration, *orders, *used[place:]]

    books = books_after(waited)

    # Refunds are decided by the usage that is there, so they would be answered otherwise.
    if all(order["event"]["type"] != "lot.refunded" for order in orders):
        assert books == books_after([registration, *orders, *used])
