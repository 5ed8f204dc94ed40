"""Make up scenarios for `lotmeter simulate`: realistic, nasty, and the same for a seed."""

from __future__ import annotations

import calendar
import copy
import json
import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

Line = dict[str, Any]
Told = tuple[str, str, str, dict[str, Any]]  # Channel, type, topic and data.

BOOKS, LOTS = "books", "lots"
HORIZON = timedelta(days=35)
AHEAD = timedelta(minutes=10)
CLOSING = timedelta(hours=72)
INSTANT = timedelta(microseconds=1)
DAY = timedelta(days=1)

ZONES = (
    "Asia/Seoul",
    "UTC",
    "America/New_York",
    "Pacific/Auckland",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Europe/Berlin",
    "Africa/Cairo",  # Its days may begin at one o'clock.
    "Australia/Lord_Howe",
    "Pacific/Kiritimati",
)
BILLING_DAYS = (1, 1, 5, 15, 27, "end", "end")
PLANS = ("free", "trial", "early_stage", "growth", "enterprise", "enterprise")
OFFSETS = (0, 0, 0, 540, 345, -210, 840, -720)
QUANTITIES = {
    "mu": (100, 100, 101, 333, 1_000, 2_000),
    "basic_seat": (1, 1, 2, 3, 5),
    "operator_seat": (1, 2, 3),
    "workflow": (1, 2, 3, 5, 9, 100, 1_000),
    "marketing": (1, 2, 9, 100),
    "white_label": (1,),
    "security_bundle": (1,),
    "pu": (100, 101, 285, 1_000),
}
PRODUCTS = tuple(QUANTITIES)
WRONG_QUANTITIES = (0, -1, 99, 1_001, 1_000_001, 10_000_000_000, 2)
TOPICS = ("usage.mu", "usage.seat", "usage.workflow", "usage.message")
TOPIC_OF = {"mu": "usage.mu", "seat": "usage.seat", "workflow": "usage.workflow"}
COMMANDS = "billing.commands"
ALPHABETS = (
    "abcdefghij klmnop@£$¥èé",
    "abc€[]{}~|^\\\f",
    "가나다라마 바사",
    "ab😀가`”ç",
    "ΔΦΓ\n\rÆß",
)
TEXT_LENGTHS = (1, 35, 36, 66, 67, 70, 71, 80, 134, 135, 152, 160, 161, 306, 307, 459)
EXTRAS: tuple[dict[str, Any], ...] = ({}, {}, {}, {}, {"retry": 3}, {"traceparent": "00-ab-cd-01"})


@dataclass(kw_only=True)
class _Channel:
    id: str
    zone: ZoneInfo
    billing_day: int | str
    plan: str
    registration: Line
    lots: dict[str, tuple[str, int, date]] = field(default_factory=dict)
    reserved: list[str] = field(default_factory=list)
    managers: dict[tuple[str, str], bool] = field(default_factory=dict)

    def midnight(self, day: date) -> datetime:
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)

    def billing_dates(self, day: date) -> list[date]:
        """List some billing dates around a day, as if the billing day never changed."""
        dates = []
        for months in (-1, 0, 1):
            year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
            last = calendar.monthrange(year, month + 1)[1]
            dates.append(
                date(year, month + 1, last if self.billing_day == "end" else int(self.billing_day))
            )
        return dates


def scenario(seed: int, *, lines: int, features: set[str] | None = None) -> tuple[list[Line], str]:
    """Make up a scenario of so many lines; return them and the time for `--as-of`.

    The feature `books` has registrations, plans, purchases without renewal and usage of all kinds,
    `lots` has everything. Both is the default, by turns.
    """
    story = _Story(random.Random(f"{seed}-{lines}"), features or ({LOTS} if seed % 2 else {BOOKS}))
    while len(story.lines) < lines:
        story.go_on(len(story.lines) / lines)
    return story.lines[:lines], story.end()


def year(seed: int, *, channels: int, lines: int) -> tuple[list[Line], str]:
    """Make up a year of many channels, about so many lines, with commands of every kind; return
    them and the time for `--as-of`.
    """
    story = _Year(random.Random(f"{seed}-{channels}-{lines}"), channels=channels, lines=lines)
    while story.now < story.ends_at:
        story.go_on((story.now - story.began_at) / (story.ends_at - story.began_at))
    return story.lines, story.now.isoformat().replace("+00:00", "Z")


class _Story:
    """What was told so far, in order of arrival."""

    def __init__(self, rng: random.Random, features: set[str], channels: int | None = None) -> None:
        self.rng = rng
        self.has_lots = LOTS in features
        self.lines: list[Line] = []
        self.now = datetime(2023, 6, 1, tzinfo=UTC) + timedelta(hours=rng.randrange(16_000))
        self.later: list[tuple[int, Line]] = []  # Lines that are promised, with their place.
        self.number = 0
        self.step_hours = rng.choice((1, 6, 12, 24, 24, 48))
        number_of_channels = channels or rng.randint(1, 4)
        self.channels = [self._new_channel(number) for number in range(number_of_channels)]
        for channel in self.channels:
            # Some register only after their first events, commands and voids.
            delay = rng.choice((0, 0, 0, 2, 5, 12))
            self.later.append((delay, channel.registration))

    def go_on(self, progress: float) -> None:
        """Tell one more line, or a few that belong together."""
        due = [line for place, line in self.later if place <= len(self.lines)]
        if due:
            self.later = [(place, line) for place, line in self.later if line is not due[0]]
            self._arrive(due[0])
            return
        self._let_time_pass()
        acts: list[tuple[int, Callable[[], None]]] = [
            (50, self.use),
            (5, self.void),
            (6, self.repeat),
            (3, self.contradict),
            (4, self.break_something),
            (10 if progress < 0.3 else 4, self.buy),
            (3, self.change_channel),
            (4, self.use_on_an_edge),
        ]
        if self.has_lots:
            acts += [
                (7, self.schedule),
                (5, self.change_reservation),
                (4, self.set_renewal),
                (4, self.refund),
                (4, self.limit),
            ]
        weights, functions = zip(*acts, strict=True)
        self.rng.choices(functions, weights)[0]()

    def end(self) -> str:
        """Choose how long nothing happens in the end."""
        rest = self.rng.choice(
            (timedelta(0), timedelta(0), CLOSING, 36 * DAY, 100 * DAY, 380 * DAY, 800 * DAY)
        )
        until = self.now + rest
        if self.rng.random() < 0.3:
            edge = self._edge(self.rng.choice(self.channels), until)
            until = max(edge, self.now)
        return until.isoformat().replace("+00:00", "Z")

    # Usage.

    def use(self) -> None:
        """Report a use of anything."""
        self._emit(self._usage(self._any_channel()), self._own_time())

    def use_on_an_edge(self) -> None:
        """Report a use on an edge of the calendar, the horizon or the future."""
        channel = self._any_channel()
        edge = self._edge(channel, self.now)
        usage = self._usage(channel)
        choice = self.rng.randrange(5)
        if choice == 0:  # Exactly so old, or a moment older.
            self._emit(usage, self.now - HORIZON - self.rng.choice((0, 0, 1)) * INSTANT)
        elif choice == 1:  # As far ahead as is allowed, or a moment further.
            time = self.now + AHEAD + self.rng.choice((0, 0, 1)) * INSTANT
            self._emit(usage, time, clock=self.now)
        elif choice == 2:  # Arrives as its cycle closes.
            self.now = max(self.now, edge + CLOSING - self.rng.choice((0, 0, 1)) * INSTANT)
            self._emit(usage, edge - INSTANT, clock=self.now)
        elif choice == 3:  # Of the next day, before that begins.
            self.now = max(self.now, edge - timedelta(minutes=self.rng.randint(1, 9)))
            self._emit(usage, min(edge, self.now + AHEAD), clock=self.now)
        else:
            self.now = max(self.now, edge)
            self._emit(usage, edge - self.rng.choice((0, 1)) * INSTANT)

    def void(self) -> None:
        """Take something back: well, badly, or before it is there."""
        channel, reason = self._any_channel(), self.rng.choice(("test", "bug", "오류"))
        choice = self.rng.random()
        if choice < 0.2:  # The event comes later, or never.
            kind, topic, data = self._usage(channel)[1:]
            promised = self._line(channel.id, kind, topic, data, self.now)
            event = promised["event"]
            if self.rng.random() < 0.8:
                place = len(self.lines) + self.rng.randint(1, 12)
                self.later.append((place, promised))
        else:
            kinds = ("workflow.executed", "marketing.sent", "message.sent")
            told = self._told(channel, kinds if choice < 0.85 else ("",))
            if not told:
                return
            event = self.rng.choice(told[-30:])["event"]
        data = {"source": event["source"], "id": event["id"], "reason": reason}
        line = self._line(channel.id, "usage.voided", self._topic(), data, self._own_time())
        if self.rng.random() < 0.04:  # It names itself.
            data |= {"source": line["event"]["source"], "id": line["event"]["id"]}
        self._arrive(line)

    def _usage(self, channel: _Channel) -> Told:
        """Make up channel, type, topic and data; lots that are there are used about up."""
        product = self.rng.choice(("mu", "seat", "workflow", "workflow", "marketing", "message"))
        if channel.lots and self.rng.random() < 0.5:
            used_by = {"pu": "message", "basic_seat": "seat", "operator_seat": "seat"}
            of_lot = self.rng.choice(list(channel.lots.values()))[0]
            product = used_by.get(of_lot, of_lot if of_lot in TOPIC_OF else product)
        bought = [lot for lot in channel.lots.values() if lot[0].endswith(product)]
        quota = self.rng.choice(bought)[1] if bought else self.rng.choice((10, 50, 2_000))
        some = max(1, int(quota * self.rng.choice((0.1, 0.3, 0.5, 0.5, 0.8, 1, 1.2, 2, 2.5, 4))))
        topic = TOPIC_OF.get(product, "usage.message")
        if self.rng.random() < 0.05:
            topic = self._topic()
        if product == "mu":
            included = {"early_stage": 1_000, "growth": 3_000}.get(channel.plan, 0)
            count = self.rng.choice((0, 1, some, included + some, included))
            return channel.id, "mu.counted", topic, {"count": count}
        if product == "seat":
            return self._seat_usage(channel, topic)
        if product == "workflow":
            return channel.id, "workflow.executed", topic, {"actions": some}
        if product == "marketing":
            return channel.id, "marketing.sent", topic, {"messages": some}
        return channel.id, "message.sent", topic, self._message()

    def _seat_usage(self, channel: _Channel, topic: str) -> Told:
        seat, manager = self.rng.choice(("basic", "operator")), f"m-{self.rng.randint(1, 7)}"
        has_seat = channel.managers.get((seat, manager), False)
        is_assigned = not has_seat if self.rng.random() < 0.8 else has_seat
        channel.managers[seat, manager] = is_assigned
        kind = "seat.assigned" if is_assigned else "seat.released"
        return channel.id, kind, topic, {"seat": seat, "manager": manager}

    def _message(self) -> dict[str, Any]:
        kind = self.rng.choice(("kakao_infotalk", "kakao_cstalk", "sms", "lms", "global_sms"))
        data: dict[str, Any] = {"kind": kind, "count": self.rng.choice((1, 1, 2, 3, 10))}
        if kind == "global_sms":
            data["country"] = self.rng.choice(("US", "CA", "JP"))
            if self.rng.random() < 0.5:
                data["segments"] = self.rng.choice((1, 2, 3, 7))
            else:
                data["text"] = self._text()
        if self.rng.random() < 0.15:
            data["provider"] = self.rng.choice(("twilio", "twilio", "other"))
            if kind == "global_sms" and data["provider"] == "twilio":
                data["country"] = self.rng.choice(("US", "AU"))
        return data

    def _text(self) -> str:
        """Write a text about as long as a part or two, of one alphabet and a few strangers."""
        letters, length = self.rng.choice(ALPHABETS), self.rng.choice(TEXT_LENGTHS)
        text = "".join(self.rng.choice(letters) for _ in range(length))
        if self.rng.random() < 0.3:
            text = text[: length // 2] + self.rng.choice("€😀가\x1b") + text[length // 2 + 1 :]
        return text

    # Copies and what is broken.

    def repeat(self) -> None:
        """Deliver something again, written otherwise, within the horizon or beyond it."""
        if not self.lines:
            return
        line = copy.deepcopy(self.rng.choice(self.lines[-60:]))
        event = line.get("event")
        if isinstance(event, dict) and event.get("time") and isinstance(event.get("data"), dict):
            if self.rng.random() < 0.5:
                line["event"] = dict(reversed(event.items())) | {"retry": 9}
                event["data"]["note"] = "again"
            line["clock"] = self._written(self.now)
            self.lines.append(line)

    def contradict(self) -> None:
        """Use an identity again for another content."""
        recent = [
            line
            for line in self._told(self._any_channel(), ("",))
            # Beyond the horizon an identity need not be known any more.
            if self.now - self._time_of(line) < HORIZON - 2 * DAY
        ]
        if not recent:
            return
        line = copy.deepcopy(self.rng.choice(recent))
        line["clock"] = self._written(self.now)
        data = line["event"]["data"]
        numbers = [key for key, value in data.items() if type(value) is int]
        if numbers and self.rng.random() < 0.7:
            data[self.rng.choice(numbers)] += 1
        else:
            line["event"]["time"] = self._written(self._time_of(line) + timedelta(seconds=1))
        self.lines.append(line)

    def break_something(self) -> None:
        """Send a record that is rejected, and sometimes the corrected one after it."""
        line = self._line(*self._usage(self._any_channel()), self.now)
        good, event = copy.deepcopy(line), line["event"]
        breaks: dict[str, Callable[[], object]] = {
            "unknown_type": lambda: event.update(type="workflow.exploded", data=7),
            "wrong_topic": lambda: line.update(topic=COMMANDS),
            "no_price": lambda: event.update(
                type="message.sent",
                data={"kind": "global_sms", "count": 1, "country": "AU", "segments": 1},
            ),
            "no_price_kind": lambda: event.update(
                type="message.sent", data={"kind": "fax", "count": 1}
            ),
            "empty_text": lambda: event.update(
                type="message.sent",
                data={"kind": "global_sms", "count": 1, "country": "AU", "text": ""},
            ),
            "in_future": lambda: event.update(time=self._written(self.now + 400 * DAY)),
            "too_old": lambda: event.update(time=self._written(self.now - 60 * DAY)),
            "too_large": lambda: event.update(padding="가" * 22_000),
            "no_data": lambda: event.pop("data"),
            "float": lambda: event.update(type="workflow.executed", data={"actions": 3.0}),
            "boolean": lambda: event.update(type="workflow.executed", data={"actions": True}),
            "zero": lambda: event.update(type="marketing.sent", data={"messages": 0}),
            "wide": lambda: event["data"].update(other=2**70),
            "nul": lambda: event["data"].update(other="a\0b"),
            "surrogate": lambda: event["data"].update(other=["\ud83d"]),
            "version": lambda: event.update(specversion="2.0"),
            "id": lambda: event.update(id=self.rng.choice(("", None, "x" * 256))),
            "subject": lambda: event.update(subject={}),
            "time": lambda: event.update(
                time=self.rng.choice(
                    ("2024-01-01 00:00:00Z", "2024-01-01T00:00:00", "2024-06-30T23:59:60Z", True)
                )
            ),
        }
        name = self.rng.choice([*breaks, "raw", "raw_event"])
        if name == "raw":
            line = {"topic": self._topic(), "clock": self._written(self.now)}
            line["raw"] = self.rng.choice(("", "{", "[]", '{"id": NaN}', "null", '"text"'))
        elif name == "raw_event":  # Of a repeated key the last counts.
            text = json.dumps(line.pop("event"), ensure_ascii=False)
            line["raw"] = '{"id": "another", ' + text[1:]
        else:
            breaks[name]()
            line["clock"] = self._written(self.now)
            if self.rng.random() < 0.4:
                self.later.append((len(self.lines) + self.rng.randint(1, 4), good))
        self.lines.append(line)

    # Commands.

    def buy(self) -> None:
        """Buy a lot."""
        self._lot_command("lot.purchased")

    def schedule(self) -> None:
        """Reserve a lot."""
        self._lot_command("lot.scheduled")

    def _lot_command(self, kind: str) -> None:
        channel = self._any_channel()
        product = self.rng.choice(PRODUCTS if self.has_lots else PRODUCTS[:5] + PRODUCTS[7:])
        quantity = self.rng.choice(QUANTITIES[product])
        if self.rng.random() < 0.06:
            quantity = self.rng.choice(WRONG_QUANTITIES)
        name = self.rng.choice(("l-{}", "l-{}", "lot {}", "로트-{}", "Ä{}")).format(self._next())
        if channel.lots and self.rng.random() < 0.07:
            name = self.rng.choice(list(channel.lots))
        at = self._own_time(days_max=40)
        channel.lots.setdefault(name, (product, quantity, at.astimezone(channel.zone).date()))
        data: dict[str, Any] = {"lot": name, "product": product, "quantity": quantity}
        if not self.has_lots:
            data["renew"] = False
        elif self.rng.random() < 0.8:
            data["renew"] = self.rng.random() < 0.6
        if self.rng.random() < 0.02:
            data["lot"] += "~2"
        self._command(channel, kind, data, at)
        if kind == "lot.scheduled":
            channel.reserved.append(name)
            if self.rng.random() < 0.4:
                self.change_reservation(channel)
        elif self.has_lots and self.rng.random() < 0.1:
            self._command(channel, "lot.refunded", {"lot": name}, self.now)
        if self.rng.random() < 0.06:
            # Another of the same product at once: they overlap, and burn side by side.
            other = {**data, "lot": f"l-{self._next()}"}
            channel.lots[other["lot"]] = channel.lots[name]
            self._command(channel, kind, other, at + timedelta(seconds=7))

    def change_reservation(self, of: _Channel | None = None) -> None:
        """Change a reservation, or cancel it."""
        channel, name = self._any_lot(of)
        if channel.reserved and self.rng.random() < 0.85:
            name = self.rng.choice(channel.reserved[-2:])
        if self.rng.random() < 0.25:
            self._command(channel, "reservation.cancelled", {"lot": name}, self._own_time())
            return
        data: dict[str, Any] = {"lot": name}
        if self.rng.random() < 0.7:
            product = channel.lots[name][0] if name in channel.lots else "mu"
            data["quantity"] = self.rng.choice(QUANTITIES[product] + WRONG_QUANTITIES[:2])
        if len(data) == 1 or self.rng.random() < 0.5:
            data["renew"] = self.rng.random() < 0.5
        self._command(channel, "reservation.changed", data, self._own_time())

    def set_renewal(self) -> None:
        """Switch a renewal on or off."""
        channel, name = self._any_lot()
        if self.rng.random() < 0.2:
            name += "~2"
        data = {"lot": name, "renew": self.rng.random() < 0.5}
        self._command(channel, "lot.renewal_set", data, self._own_time())

    def refund(self) -> None:
        """Give a lot back, soon after it was bought or on the last day that is allowed."""
        channel, name = self._any_lot()
        at = self.now
        if name in channel.lots and self.rng.random() < 0.5:
            last = channel.midnight(channel.lots[name][2] + 8 * DAY) - INSTANT
            if self.now < last < self.now + 9 * DAY:
                at = last + self.rng.choice((0, 0, 1)) * INSTANT
        self._command(channel, "lot.refunded", {"lot": name}, at)

    def limit(self) -> None:
        """Set, raise, lower or remove a manual limit."""
        product = self.rng.choice(PRODUCTS[:5] + PRODUCTS[7:])
        some = self.rng.choice(QUANTITIES[product])
        limit = self.rng.choice((None, 0, 1, some, some, 2 * some, 10 * some))
        data = {"product": product, "limit": limit}
        self._command(self._any_channel(), "limit.set", data, self._own_time(days_max=40))

    def change_channel(self) -> None:
        """Change the plan, the billing day or the end of the trial, or register again."""
        channel = self._any_channel()
        if self.rng.random() < 0.05:
            again = copy.deepcopy(channel.registration["event"]["data"])
            self._command(channel, "channel.registered", again, self.now)
            return
        data: dict[str, Any] = {}
        if self.rng.random() < 0.6:
            channel.plan = data["plan"] = self.rng.choice(PLANS)
        if self.rng.random() < 0.4:
            channel.billing_day = data["billing_day"] = self.rng.choice(BILLING_DAYS)
        if self.rng.random() < 0.4 or not data:
            day = self.now.date() + self.rng.choice((-3, 1, 10, 40)) * DAY
            data["trial_ends_on"] = day.isoformat()
        self._command(channel, "channel.changed", data, self._own_time(days_max=40))

    # How it is told.

    def _new_channel(self, number: int) -> _Channel:
        billing_day, plan = self.rng.choice(BILLING_DAYS), self.rng.choice(PLANS)
        zone, name = self.rng.choice(ZONES), self.rng.choice(("c-{}", "c-{}", "채널 {}"))
        data = {"plan": plan, "time_zone": zone, "billing_day": billing_day}
        if plan == "trial" or self.rng.random() < 0.1:
            ends_on = self.now.date() + self.rng.choice((1, 14, 45, 100)) * DAY
            data["trial_ends_on"] = ends_on.isoformat()
        # Some come late with a registration of long ago: its closed cycles are empty.
        ago = self.rng.choice((0, 0, 0, 1, 20, 50, 120)) * DAY
        identifier = name.format(number + 1)
        line = self._line(identifier, "channel.registered", COMMANDS, data, self.now - ago)
        return _Channel(
            id=identifier,
            zone=ZoneInfo(zone),
            billing_day=billing_day,
            plan=plan,
            registration=line,
        )

    def _any_channel(self) -> _Channel:
        if self.rng.random() < 0.03:  # Nobody ever registers it.
            ghost = self.rng.choice(self.channels)
            return _Channel(
                id="c-nobody",
                zone=ghost.zone,
                billing_day=1,
                plan="free",
                registration=ghost.registration,
            )
        return self.rng.choice(self.channels)

    def _any_lot(self, of: _Channel | None = None) -> tuple[_Channel, str]:
        channel = of or self._any_channel()
        names = list(channel.lots)
        return channel, self.rng.choice(names[-4:]) if names else "l-none"

    def _let_time_pass(self) -> None:
        choice = self.rng.random()
        if choice < 0.012:
            self.now += self.rng.randint(40, 200) * DAY  # Months of silence.
        elif choice < 0.05:
            self.now = max(self.now, self._edge(self.rng.choice(self.channels), self.now))
        elif choice < 0.85:
            hours = self.rng.expovariate(1 / self.step_hours)
            self.now += timedelta(seconds=int(hours * 3600))

    def _own_time(self, days_max: int = 34) -> datetime:
        """Choose when something happened that arrives now: mostly now."""
        choice = self.rng.random()
        if choice < 0.7:
            return self.now
        if choice < 0.8:
            return self.now - timedelta(seconds=self.rng.randint(1, 7_200))
        if choice < 0.85:
            return self._edge(self.rng.choice(self.channels), self.now - 20 * DAY)
        if choice < 0.88:
            return self.now + timedelta(seconds=self.rng.randint(1, 600))
        return self.now - timedelta(minutes=self.rng.randint(1, days_max * 24 * 60))

    def _edge(self, channel: _Channel, near: datetime) -> datetime:
        """Find the beginning of a day on which something of a channel may begin or end."""
        day = near.astimezone(channel.zone).date()
        days = [day, day + DAY, *channel.billing_dates(day)]
        for _, _, starts_on in channel.lots.values():
            first = day.replace(day=1)
            last = calendar.monthrange(first.year, first.month)[1]
            days.append(first.replace(day=min(starts_on.day, last)))
        chosen = self.rng.choice(days)
        shift = self.rng.choice((timedelta(0), timedelta(0), INSTANT, -INSTANT, CLOSING))
        return channel.midnight(chosen) + shift

    def _command(self, channel: _Channel, kind: str, data: dict[str, Any], at: datetime) -> None:
        self._emit((channel.id, kind, COMMANDS, data), at)

    def _emit(self, told: Told, at: datetime, clock: datetime | None = None) -> None:
        line = self._line(*told, at)
        if clock is not None or at != self.now:
            line["clock"] = self._written(clock or self.now)
        self.lines.append(line)

    def _arrive(self, line: Line) -> None:
        """Let a line arrive now that was written before."""
        self.now = max(self.now, self._time_of(line))
        line["clock"] = self._written(self.now)
        self.lines.append(line)

    def _line(
        self, channel: str, kind: str, topic: str, data: dict[str, Any], at: datetime
    ) -> Line:
        number = self._next()
        form = self.rng.choice(("e-{:04x}", "e-{:04x}", "e-{:04x}", "an id {:04x}", "이벤트-{:x}"))
        source = "/billing" if topic == COMMANDS and "." in kind else f"/services/{kind[:4]}"
        event = {
            "specversion": "1.0",
            "id": form.format(number),
            "source": source + self.rng.choice(("", "", "", "/2")),
            "type": kind,
            "subject": channel,
            "time": self._written(at),
            "data": dict(data) | self.rng.choice(({}, {}, {}, {"note": "ignored"})),
            **self.rng.choice(EXTRAS),
        }
        return {"topic": topic, "event": event}

    def _written(self, at: datetime) -> str:
        """Write an instant in one of the many ways that are allowed."""
        minutes = self.rng.choice(OFFSETS)
        text = at.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
        if not at.microsecond and self.rng.random() < 0.2:
            text = text[:19] + ".000" + text[19:]
        if not minutes and self.rng.random() < 0.6:
            text = text[:-6] + "Z"
            text = text.lower() if self.rng.random() < 0.1 else text
        return text

    @staticmethod
    def _time_of(line: Line) -> datetime:
        return datetime.fromisoformat(line["event"]["time"].upper()).astimezone(UTC)

    def _told(self, channel: _Channel, kinds: tuple[str, ...]) -> list[Line]:
        """List the well-formed lines of a channel so far; the empty kind is any."""
        found = []
        for line in self.lines:
            event = line.get("event", {})
            if event.get("subject") == channel.id and event.get("type", "").startswith(kinds):
                try:
                    self._time_of(line)
                except (ValueError, AttributeError):
                    continue
                if isinstance(event.get("data"), dict) and event.get("id"):
                    found.append(line)
        return found

    def _topic(self) -> str:
        return self.rng.choice(TOPICS)

    def _next(self) -> int:
        self.number += 1
        return self.number


class _Year(_Story):
    """A story in which time never leaps: something is told of every few hours."""

    def __init__(self, rng: random.Random, *, channels: int, lines: int) -> None:
        super().__init__(rng, {LOTS}, channels)
        self.began_at, self.ends_at = self.now, self.now + 365 * DAY
        self.step_hours = 365 * 24 / lines

    def _let_time_pass(self) -> None:
        if self.rng.random() < 0.01:
            self.now = max(self.now, self._edge(self.rng.choice(self.channels), self.now))
        self.now += timedelta(hours=self.rng.expovariate(1 / self.step_hours))

    def _edge(self, channel: _Channel, near: datetime) -> datetime:
        edge = super()._edge(channel, near)
        if edge < near + 3 * DAY:
            return edge
        return channel.midnight(near.astimezone(channel.zone).date() + DAY)

    def _any_channel(self) -> _Channel:
        """Choose one, mostly of those that have something to change."""
        owners = [channel for channel in self.channels if channel.lots]
        if owners and self.rng.random() < 0.6:
            return self.rng.choice(owners)
        return super()._any_channel()
