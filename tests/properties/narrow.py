"""Scenarios in a narrow room: one channel, few names, and every time on an edge.

Hypothesis chooses each word, so a scenario that shows a fault shrinks to the lines that matter.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.builders import COMMANDS, Line, arriving, line

CHANNEL = "c-1"
ZONES = ("Asia/Seoul", "UTC", "America/New_York", "Africa/Cairo")
# The clocks change in New York on March 10, in Cairo at midnight of April 26.
FIRST_DAYS = ("2024-01-01", "2024-01-29", "2024-02-27", "2024-03-09", "2024-04-25")
INSTANT = timedelta(microseconds=1)

# Mostly little happens between two lines, and most lines tell what happens now.
STEPS = (0,) * 16 + (1, 1, 2, 3, 3, 4, 7, 8, 11, 25, 29, 31, 60, 365)
AGES = (0,) * 20 + (1, 1, 2, 3, 5, 10, 28, 31, 34, 35, 36, 50)
PARTS_OF_A_DAY = ("first", "noon", "evening", "last")
PLANS = ("enterprise", "enterprise", "enterprise", "early_stage", "growth", "trial", "free")
BILLING_DAYS = (1, 1, 2, 4, 15, 27, "end")
LOTS = ("l-1", "l-2", "l-3", "l-1~2")
USED_IDS = tuple(f"e-{number}" for number in range(6))
AGAIN = "again"
QUANTITIES = {
    "mu": (100, 101, 99),
    "basic_seat": (1, 2, 5, 6),
    "operator_seat": (1, 3),
    "workflow": (1, 2, 3, 100),
    "white_label": (1,),
    "pu": (100, 101),
}


@dataclass(frozen=True)
class Act:
    """Something that is told, and when it is read and was meant, seen from the line before."""

    topic: str
    kind: str
    data: dict[str, Any]
    event_id: str | None
    step: int  # Days until it is read …
    part: str  # … and the part of that day.
    age: int  # Days that its own time lies back …
    own_part: str  # … and the part of that day; "now" is the time at which it is read.


_NEW_ID = st.none()


def _acts(topic: str, kind: str, data: st.SearchStrategy, event_ids=_NEW_ID) -> st.SearchStrategy:
    return st.builds(
        Act,
        topic=st.just(topic),
        kind=st.just(kind),
        data=data,
        event_id=event_ids,
        step=st.sampled_from(STEPS),
        part=st.sampled_from(PARTS_OF_A_DAY),
        age=st.sampled_from(AGES),
        own_part=st.sampled_from(("now", "now", "now", *PARTS_OF_A_DAY)),
    )


def _data(**values: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries(values)


_ids = st.sampled_from(USED_IDS)
_seats = _data(
    seat=st.sampled_from(("basic", "operator")), manager=st.sampled_from(("m-1", "m-2", "m-3"))
)
USES = st.one_of(
    _acts("usage.mu", "mu.counted", _data(count=st.sampled_from((0, 50, 120, 250)))),
    _acts("usage.seat", "seat.assigned", _seats),
    _acts("usage.seat", "seat.released", _seats),
    *[
        _acts(
            "usage.workflow",
            "workflow.executed",
            _data(actions=st.sampled_from((1, 2, 3, 50, 100, 250))),
            _ids,
        )
    ]
    * 2,
    _acts(
        "usage.message",
        "message.sent",
        _data(kind=st.sampled_from(("sms", "kakao_infotalk")), count=st.sampled_from((1, 5, 9))),
        _ids,
    ),
    _acts(
        "usage.workflow",
        "usage.voided",
        _data(source=st.just("/tests"), id=_ids, reason=st.just("wrong")),
        st.sampled_from((None, None, *USED_IDS)),
    ),
)
_bought = st.sampled_from(("workflow", "mu", "pu", "basic_seat", *sorted(QUANTITIES))).flatmap(
    lambda product: _data(
        lot=st.sampled_from(LOTS[:3]),
        product=st.just(product),
        quantity=st.sampled_from(QUANTITIES[product]),
        renew=st.booleans(),
    )
)
_trial_ends = st.sampled_from(
    ("2024-03-10", "2024-02-04", "2024-02-01", "2024-05-01", "2025-06-01")
)
_lots = st.sampled_from(LOTS)
_registration = st.fixed_dictionaries(
    {
        "plan": st.sampled_from(PLANS),
        "time_zone": st.sampled_from(ZONES),
        "billing_day": st.sampled_from(BILLING_DAYS),
        "trial_ends_on": _trial_ends,
    }
)
REGISTRATION = _acts(COMMANDS, "channel.registered", _registration)
PURCHASES = _acts(COMMANDS, "lot.purchased", _bought)
ORDERS = st.one_of(
    *[PURCHASES] * 4,
    *[_acts(COMMANDS, "lot.scheduled", _bought)] * 3,
    _acts(COMMANDS, "channel.registered", _registration),
    *[_acts(COMMANDS, "channel.changed", _data(plan=st.sampled_from(PLANS)))] * 2,
    _acts(COMMANDS, "channel.changed", _data(billing_day=st.sampled_from(BILLING_DAYS))),
    _acts(COMMANDS, "channel.changed", _data(trial_ends_on=_trial_ends)),
    _acts(
        COMMANDS,
        "limit.set",
        _data(
            product=st.sampled_from(sorted(QUANTITIES)),
            limit=st.sampled_from((None, 0, 1, 100, 150)),
        ),
    ),
    _acts(
        COMMANDS,
        "reservation.changed",
        _data(lot=_lots, quantity=st.sampled_from((1, 2, 100, 0)), renew=st.booleans()),
    ),
    _acts(COMMANDS, "reservation.cancelled", _data(lot=_lots)),
    _acts(COMMANDS, "lot.renewal_set", _data(lot=_lots, renew=st.booleans())),
    _acts(COMMANDS, "lot.refunded", _data(lot=_lots)),
)
AGAIN_OF_LATE = _acts("", AGAIN, _data(back=st.integers(1, 6)))
ACTS = st.one_of(*[USES] * 6, *[ORDERS] * 4, AGAIN_OF_LATE)


def many(acts: st.SearchStrategy, most: int) -> st.SearchStrategy:
    """Draw lists of any length alike; left alone, most would be short."""
    return st.integers(0, most).flatmap(lambda size: st.lists(acts, min_size=size, max_size=size))


@st.composite
def narrow_scenarios(draw: st.DrawFn) -> tuple[list[Line], str]:
    """Make up a scenario; return its lines and the time for `--as-of`."""
    early = draw(many(ACTS, 4)) if draw(st.booleans()) else []
    registration = replace(draw(REGISTRATION), own_part=draw(st.sampled_from(("now", "first"))))
    acts = draw(many(PURCHASES, 3)) + draw(many(ACTS, 24))
    first_day = draw(st.sampled_from(FIRST_DAYS))
    rest = draw(st.sampled_from((0, 0, 1, 4, 40, 400)))
    zone = ZoneInfo(registration.data["time_zone"])

    clock = _moment(datetime.fromisoformat(first_day).replace(tzinfo=zone), "first")
    lines = []
    for act in (*early, registration, *acts):
        clock = max(clock, _moment(clock.astimezone(zone) + timedelta(days=act.step), act.part))
        if act.kind != AGAIN:
            lines.append(_told(act, clock, zone))
        elif len(lines) >= act.data["back"]:
            lines.append(arriving(lines[-act.data["back"]], _text(clock)))
    end = clock + timedelta(days=rest)
    return lines, _text(end)


def _told(act: Act, clock: datetime, zone: ZoneInfo) -> Line:
    if act.own_part == "now":
        at = clock - timedelta(days=act.age)
    else:
        at = _moment(clock.astimezone(zone) - timedelta(days=act.age), act.own_part)
        if at > clock:
            at = clock + timedelta(minutes=10)
    return line(
        act.topic,
        act.kind,
        _text(at),
        act.data,
        event_id=act.event_id,
        channel=CHANNEL,
        clock=_text(clock),
    )


def _moment(day: datetime, part: str) -> datetime:
    """Find the first or last instant, or another part, of the day of a local time."""
    begins = datetime.combine(day.date(), time(), tzinfo=day.tzinfo).astimezone(UTC)
    if part == "first":
        return begins
    if part == "last":
        following = datetime.combine(day.date() + timedelta(days=1), time(), tzinfo=day.tzinfo)
        return following.astimezone(UTC) - INSTANT
    return begins + timedelta(hours=12 if part == "noon" else 18)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
