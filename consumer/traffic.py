"""Traffic as messaging services send it, with the faults that such traffic has, and how many of
each there are.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from metering.periods import (
    END_OF_MONTH,
    HOUR,
    SECOND,
    billing_date_after,
    billing_date_up_to,
    day_of,
    first_instant,
    moment_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date

    from metering.catalog import Catalog

DAY = 24 * HOUR

# Usage is of the last thirty days; channels were registered before.
USAGE_DAYS = 30
REGISTERED_DAYS = 75

# No cycle of a channel closes while the traffic runs: what is late is known beforehand.
QUIET = HOUR

# Of a thousand records that many are copies, late, taken back, or cannot be counted.
DUPLICATES_PERMILLE = 20
LATE_PERMILLE = 10
VOIDS_PERMILLE = 5
BAD_PERMILLE = 10

# How far apart from its time an event may come.
DISORDER = 6 * HOUR

# Services that are well send an event that soon.
DELAY = 3 * SECOND

ZONES = ("Asia/Seoul", "Asia/Tokyo", "America/New_York", "Europe/Berlin", "UTC", "Asia/Kathmandu")
PLANS = ("enterprise", "enterprise", "growth", "early_stage", "free")
PERSONS = 40
RECENT = 2_000


class Message(NamedTuple):
    """A record that is to be produced."""

    topic: str
    key: bytes
    value: bytes


@dataclass(slots=True)
class Customer:
    """A channel that uses what it bought."""

    channel: str
    plan: str
    zone: str
    billing_day: int
    registered_at: int
    open_from: date  # The first day of its earliest open cycle.
    contacts: int
    busy: float  # How much of the traffic is its own.


@dataclass(slots=True)
class Manifest:
    """What was sent, by what it must be found as."""

    events: int = 0
    commands: int = 0
    duplicates: int = 0
    late: int = 0
    voids: int = 0
    parked: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        """All records."""
        return self.events + self.commands

    def document(self) -> dict[str, Any]:
        """Write it as people and programs read it."""
        return {
            "records": self.records,
            "applied": self.records - self.duplicates - self.parked - self.rejected.total(),
            "duplicate": self.duplicates,
            "late": self.late,
            "voided": self.voids,
            "parked": self.parked,
            "rejected": dict(sorted(self.rejected.items())),
        }


class Traffic:
    """A reproducible stream: the same seed, size and time give the same records."""

    def __init__(
        self, *, events: int, channels: int, seed: int, now: int, catalog: Catalog
    ) -> None:
        self.manifest = Manifest()
        self._random = Random(seed)  # noqa: S311 - a demo is no secret.
        self._events = events
        self._now = now
        self._seed = seed
        self._closing = catalog.rules.closing
        self._horizon = catalog.rules.horizon
        self._number = 0
        self._progress = 0.0  # How far the stream is, from 0 to 1.
        self._clock: Callable[[], int] | None = None  # Of a stream that never ends.
        self.customers = [self._customer(number) for number in range(channels)]
        self._share_out()

    def commands(self) -> Iterator[Message]:
        """Register every channel, and buy lots from the first day of its earliest open cycle."""
        for customer in self.customers:
            billing_day = "end" if customer.billing_day == END_OF_MONTH else customer.billing_day
            yield self._command(
                customer,
                "channel.registered",
                customer.registered_at,
                {"plan": customer.plan, "time_zone": customer.zone, "billing_day": billing_day},
            )
        for customer in self.customers:
            begins = first_instant(customer.open_from, customer.zone)
            share = max(1, round(self._events * customer.busy))
            lots = [("pu", max(100, share * 12))]
            if customer.plan != "free":
                lots += [
                    ("workflow", max(1, share // 3)),
                    ("marketing", max(1, share * 40)),
                    ("mu", max(100, customer.contacts // 2)),
                    ("basic_seat", 10),
                ]
            for number, (product, quantity) in enumerate(lots):
                data = {
                    "lot": f"lot-{number + 1}",
                    "product": product,
                    "quantity": quantity,
                    "renew": True,
                }
                at = min(begins + (number + 1) * 60 * SECOND, self._now - SECOND)
                # An early stage plan has limits of its own: what goes beyond them is refused.
                yield self._command(customer, "lot.purchased", at, data)

    def usage(self) -> Iterator[Message]:
        """Use what was bought, now and then badly."""
        recent: deque[tuple[Customer, str, dict[str, Any]]] = deque(maxlen=RECENT)
        weights = [customer.busy for customer in self.customers]
        crowd = self._random.choices(self.customers, weights, k=self._events)
        makers = (self._workflow, self._message, self._marketing, self._contacts, self._seat)
        chosen = self._random.choices(makers, (35, 35, 12, 8, 10), k=self._events)
        for number, (customer, make) in enumerate(zip(crowd, chosen, strict=True)):
            self.manifest.events += 1
            # Time goes on from the first day to now; what happened together comes in any order.
            self._progress = number / self._events
            chance = self._random.randrange(1000)
            if chance < BAD_PERMILLE:
                yield self._bad(customer, recent)
                continue
            chance -= BAD_PERMILLE
            if chance < DUPLICATES_PERMILLE and recent:
                self.manifest.duplicates += 1
                original, topic, event = self._random.choice(recent)
                # Copies come on any topic, in any spelling.
                yield Message(topic, original.channel.encode(), orjson.dumps({**event, "retry": 1}))
                continue
            chance -= DUPLICATES_PERMILLE
            if chance < VOIDS_PERMILLE and (target := self._to_take_back(recent)) is not None:
                yield target
                continue
            chance -= VOIDS_PERMILLE
            is_late = chance < LATE_PERMILLE
            at = self._late_time(customer) if is_late else self._time(customer)
            self.manifest.late += at < first_instant(customer.open_from, customer.zone)
            topic, event = make(customer, at)
            recent.append((customer, topic, event))
            yield Message(topic, customer.channel.encode(), orjson.dumps(event))

    def usage_from_now_on(self, clock: Callable[[], int]) -> Iterator[Message]:
        """Use what was bought as time goes by, for as long as somebody asks for it."""
        self._clock = clock
        while True:
            yield from self.usage()

    # Customers

    def _customer(self, number: int) -> Customer:
        draw = self._random
        zone = draw.choice(ZONES)
        registered_at = self._now - REGISTERED_DAYS * DAY - draw.randrange(DAY)
        while True:
            billing_day = draw.choice((*range(1, 28), END_OF_MONTH))
            open_from, closes_at = self._open_cycle(registered_at, zone, billing_day)
            if closes_at > self._now + QUIET:
                break
        return Customer(
            f"channel-{number + 1:05}",
            draw.choice(PLANS),
            zone,
            billing_day,
            registered_at,
            open_from,
            contacts=draw.randrange(400, 6_000),
            busy=draw.paretovariate(1.6),
        )

    def _open_cycle(self, registered_at: int, zone: str, billing_day: int) -> tuple[date, int]:
        start = billing_date_up_to(day_of(registered_at, zone), billing_day)
        while True:
            following = billing_date_after(start, billing_day)
            closes_at = first_instant(following, zone) + self._closing
            if closes_at > self._now:
                return start, closes_at
            start = following

    def _share_out(self) -> None:
        """Make the shares of all customers add up to one."""
        total = sum(customer.busy for customer in self.customers)
        for customer in self.customers:
            customer.busy /= total

    # Times

    def _time(self, customer: Customer) -> int:
        if self._clock is not None:
            self._now = self._clock()
            return self._now - self._random.randrange(DELAY)
        begins = max(first_instant(customer.open_from, customer.zone), self._now - USAGE_DAYS * DAY)
        reached = begins + int((self._now - begins) * self._progress)
        return min(
            max(begins, reached + self._random.randrange(-DISORDER, DISORDER)), self._now - SECOND
        )

    def _late_time(self, customer: Customer) -> int:
        """Pick a time in a closed cycle, if one is not too old; else any time."""
        ends = first_instant(customer.open_from, customer.zone)
        begins = self._now - self._horizon + HOUR
        return self._random.randrange(begins, ends) if begins < ends else self._time(customer)

    # Events

    def _event(
        self, customer: Customer, kind: str, at: int, data: dict[str, Any]
    ) -> dict[str, Any]:
        self._number += 1
        return {
            "specversion": "1.0",
            "id": f"e-{self._seed}-{self._number}",
            "source": f"/services/{kind.partition('.')[0]}",
            "type": kind,
            "subject": customer.channel,
            "time": _time_text(at),
            "data": data,
        }

    def _workflow(self, customer: Customer, at: int) -> tuple[str, dict[str, Any]]:
        return "usage.workflow", self._event(
            customer, "workflow.executed", at, {"actions": self._random.randrange(1, 6)}
        )

    def _marketing(self, customer: Customer, at: int) -> tuple[str, dict[str, Any]]:
        data = {"messages": self._random.randrange(1, 800)}
        return "usage.message", self._event(customer, "marketing.sent", at, data)

    def _message(self, customer: Customer, at: int) -> tuple[str, dict[str, Any]]:
        draw = self._random
        kind = draw.choice(("sms", "lms", "kakao_infotalk", "kakao_cstalk", "global_sms"))
        data: dict[str, Any] = {"kind": kind, "count": draw.randrange(1, 4)}
        if kind == "global_sms":
            data["country"] = draw.choice(("US", "CA", "JP"))
            data["text"] = draw.choice(
                ("Your order is on its way.", "주문하신 상품이 발송되었습니다.", "a" * 200)
            )
        if draw.randrange(20) == 0:
            data["provider"] = "twilio"
        return "usage.message", self._event(customer, "message.sent", at, data)

    def _contacts(self, customer: Customer, at: int) -> tuple[str, dict[str, Any]]:
        count = max(0, round(self._random.gauss(customer.contacts, customer.contacts / 20)))
        return "usage.mu", self._event(customer, "mu.counted", at, {"count": count})

    def _seat(self, customer: Customer, at: int) -> tuple[str, dict[str, Any]]:
        draw = self._random
        seat = draw.choice(("basic", "basic", "operator"))
        persons = PERSONS if seat == "basic" else PERSONS // 4
        kind = draw.choice(("seat.assigned", "seat.assigned", "seat.released"))
        data = {"seat": seat, "manager": f"m-{draw.randrange(persons)}"}
        return "usage.seat", self._event(customer, kind, at, data)

    def _command(self, customer: Customer, kind: str, at: int, data: dict[str, Any]) -> Message:
        self.manifest.commands += 1
        self._number += 1
        command = {
            "specversion": "1.0",
            "id": f"c-{self._seed}-{self._number}",
            "source": "/billing",
            "type": kind,
            "subject": customer.channel,
            "time": _time_text(at),
            "data": data,
        }
        return Message("billing.commands", customer.channel.encode(), orjson.dumps(command))

    def _to_take_back(self, recent: deque[tuple[Customer, str, dict[str, Any]]]) -> Message | None:
        """Void a recent event that adds up; None if the one that was picked does not."""
        if not recent:
            return None
        place = self._random.randrange(len(recent))
        customer, topic, event = recent[place]
        if event["type"] not in _VOIDABLE:
            return None
        del recent[place]
        self.manifest.voids += 1
        data = {"source": event["source"], "id": event["id"], "reason": "sent by mistake"}
        void = self._event(customer, "usage.voided", self._now - SECOND, data)
        return Message(topic, customer.channel.encode(), orjson.dumps(void))

    # Faults

    def _bad(
        self, customer: Customer, recent: deque[tuple[Customer, str, dict[str, Any]]]
    ) -> Message:
        """Make a record that cannot be counted, each kind as often."""
        topic, event = self._workflow(customer, self._time(customer))
        faults: tuple[Callable[[dict[str, Any]], tuple[str, str, bytes]], ...] = (
            lambda event: ("malformed", topic, orjson.dumps(event)[:-7]),
            lambda event: ("malformed", topic, orjson.dumps({**event, "data": {"actions": 1.5}})),
            lambda event: (
                "unknown_type",
                topic,
                orjson.dumps({**event, "type": "workflow.exploded"}),
            ),
            lambda event: ("wrong_topic", "billing.commands", orjson.dumps(event)),
            lambda event: (
                "in_future",
                topic,
                orjson.dumps({**event, "time": _time_text(self._now + DAY)}),
            ),
            lambda event: (
                "too_old",
                topic,
                orjson.dumps({**event, "time": _time_text(self._now - self._horizon - DAY)}),
            ),
            lambda event: (
                "no_price",
                topic,
                orjson.dumps({**event, "type": "message.sent", "data": _UNPRICED}),
            ),
            lambda event: (
                "empty_text",
                topic,
                orjson.dumps({**event, "type": "message.sent", "data": _EMPTY}),
            ),
            lambda event: ("too_large", topic, orjson.dumps({**event, "padding": "x" * 70_000})),
            lambda event: (
                "parked",
                topic,
                orjson.dumps({**event, "subject": "channel-nobody-registered"}),
            ),
        )
        kind = self._random.randrange(len(faults) + 1)
        if kind == len(faults):
            if not recent:
                kind = 0
            else:
                original, topic, event = self._random.choice(recent)
                self.manifest.rejected["conflict"] += 1
                changed = {**event, "time": _time_text(self._now - 2 * SECOND)}
                return Message(topic, original.channel.encode(), orjson.dumps(changed))
        found_as, topic, value = faults[kind](event)
        if found_as == "parked":
            self.manifest.parked += 1
        else:
            self.manifest.rejected[found_as] += 1
        return Message(topic, customer.channel.encode(), value)


_VOIDABLE = frozenset({"workflow.executed", "marketing.sent", "message.sent"})
_UNPRICED = {"kind": "global_sms", "country": "AU", "count": 1, "segments": 1}
_EMPTY = {"kind": "global_sms", "country": "US", "count": 1, "text": ""}


def _time_text(instant: int) -> str:
    return moment_of(instant).isoformat(timespec="milliseconds").replace("+00:00", "Z")
