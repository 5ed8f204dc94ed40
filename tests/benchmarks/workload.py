"""What the benchmark sends, and what it must come to, counted here without a line of the product.

Nothing in it can be refused or rejected: what is wrong with records is the business of the tests.
"""

from __future__ import annotations

import random
from calendar import monthrange
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import orjson
from aiokafka.partitioner import murmur2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTITIONS = 8
CHUNK_RECORDS = 100_000

# Previous cycles stay open while a benchmark runs, so that a lot can be in its second window and
# give carried units.
CLOSING_HOURS = 240

# At noon in UTC it is the same day in all of these.
ZONES = ("Asia/Seoul", "Asia/Tokyo", "America/New_York", "Europe/Berlin", "UTC", "Asia/Kathmandu")
PLANS = ("enterprise", "growth", "enterprise", "growth", "enterprise", "free")
# Of so many channels one is in the second month of its lots.
OLD_EVERY = 4

# Shares of the kinds of events, by the name of the mix.
MIXES = {
    "all": {"workflow": 34, "message": 34, "marketing": 12, "mu": 8, "seat": 10, "void": 2},
    "counts": {"workflow": 70, "marketing": 30},
    "messages": {"message": 100},
    "levels": {"mu": 50, "seat": 50},
}
TOPIC_OF = {
    "workflow": "workflow",
    "message": "message",
    "marketing": "message",
    "mu": "mu",
    "seat": "seat",
}
TOPICS = tuple(dict.fromkeys(TOPIC_OF.values()))

# Thousandths of a PU a message, as in the published price list.
PU = {"kakao_infotalk": 7_000, "kakao_cstalk": 80_000, "sms": 10_000, "lms": 28_000}
PU_OF_GLOBAL = {"US": (14_000, 14_500), "CA": (14_000, 14_500), "JP": (14_000, 109_000)}
TEXTS = (("Your order is on its way.", 1), ("주문하신 상품이 발송되었습니다.", 1), ("a" * 200, 2))

# Copies and voids are of one of so many records before them.
RECENT = 5_000
JITTER_SECONDS = 900


class Record(NamedTuple):
    """A record that is to be produced."""

    key: bytes
    value: bytes


# Records by topic and partition.
Chunk = dict[tuple[str, int], list[Record]]


@dataclass(frozen=True)
class Spec:
    """What kind of traffic is wanted."""

    name: str
    events: int
    channels: int = 5_000
    mix: str = "all"
    is_skewed: bool = False  # One channel has half of the traffic.
    duplicates_percent: int = 0
    seed: int = 1


@dataclass
class Manifest:
    """What was sent, by what it must be found as."""

    records: int = 0
    duplicates: int = 0
    voided: int = 0
    # Thousandths of a unit of the cycle, by channel and product.
    usage: dict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))
    holders: dict[tuple[int, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    by_kind: Counter[str] = field(default_factory=Counter)

    def totals(self) -> dict[tuple[str, str], int]:
        """Sum up usage by channel and product; what is nothing is left out."""
        found = {(name_of(number), what): total for (number, what), total in self.usage.items()}
        for (number, seat), persons in self.holders.items():
            found[name_of(number), seat] = 1_000 * len(persons)
        return {key: total for key, total in found.items() if total}


class Population:
    """Channels with plans and lots, made for a number of events to come."""

    def __init__(self, channels: int, *, events: int, now: datetime) -> None:
        self.channels = channels
        self._events = max(1, events // channels)
        noon = now.replace(hour=12, minute=0, second=0, microsecond=0)
        # The cycle of old channels begins here, and so does the traffic of all.
        boundary = noon - timedelta(days=2)
        self.begins = boundary.replace(day=min(boundary.day, 27))
        self._old_since = _a_month_before(self.begins)
        self._since = noon - timedelta(days=10)

    def commands(self) -> Iterator[Record]:
        """Register every channel and buy its lots."""
        for number in range(self.channels):
            since = self._old_since if number % OLD_EVERY == 0 else self._since
            zone, plan = ZONES[number % len(ZONES)], PLANS[number % len(PLANS)]
            billing_day = min(since.day, 27)
            data = {"plan": plan, "time_zone": zone, "billing_day": billing_day}
            yield _command(number, "channel.registered", since, data)
            # Enough that own, borrowed and postpaid units all come up.
            lots = {"pu": max(100, self._events * 10)}
            if plan != "free":
                lots["workflow"] = max(1, self._events // 3)
                lots["marketing"] = max(1, self._events * 12)
                lots["mu"] = 1_000
                lots["basic_seat"] = 10
            for place, (product, quantity) in enumerate(lots.items(), start=1):
                at = since + timedelta(minutes=place)
                lot = {"lot": f"lot-{place}", "product": product, "quantity": quantity}
                yield _command(number, "lot.purchased", at, lot)


class Workload:
    """A reproducible stream of usage of a population."""

    def __init__(self, spec: Spec, population: Population, *, now: datetime) -> None:
        self.spec = spec
        self.manifest = Manifest()
        self._draw = random.Random(spec.seed)
        self._population = population
        self._began_ms = int(population.begins.timestamp() * 1_000)
        self._now_ms = int(now.timestamp() * 1_000) - 1_000
        self._made = 0
        # Topic, record, channel, how to take it back, and source and id of the event.
        self._recent: list[tuple[str, Record, int, Callable[[], None] | None, str, str]] = []

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of this stream alone, so that several backlogs can wait in one broker."""
        return tuple(f"{self.spec.name}.{topic}" for topic in TOPICS)

    def chunks(self, *, records: int = CHUNK_RECORDS) -> Iterator[Chunk]:
        """Make the records, some at a time."""
        while self._made < self.spec.events:
            yield self.some(min(records, self.spec.events - self._made))

    def some(self, count: int) -> Chunk:
        """Make the next records."""
        shares = MIXES[self.spec.mix]
        draw, channels = self._draw, self._population.channels
        kinds = draw.choices(list(shares), list(shares.values()), k=count)
        made: Chunk = {
            (topic, partition): [] for topic in self.topics for partition in range(PARTITIONS)
        }
        for kind in kinds:
            number = int(draw.random() * channels)
            if self.spec.is_skewed and draw.random() < 0.5:
                number = 0
            topic, record = self._record(kind, number)
            made[topic, partition_of(record.key)].append(record)
            self._made += 1
        self.manifest.records += count
        return made

    def _record(self, kind: str, number: int) -> tuple[str, Record]:
        draw, recent = self._draw, self._recent
        if recent and draw.random() * 100 < self.spec.duplicates_percent:
            self.manifest.duplicates += 1
            topic, record, *_ = recent[int(draw.random() * len(recent))]
            return topic, record
        if kind == "void":
            place = int(draw.random() * len(recent)) if recent else 0
            if not recent or recent[place][3] is None:
                kind = "workflow"
            else:
                return self._void(place)
        self.manifest.by_kind[kind] += 1
        type_, data, take_back = _MAKERS[kind](self, number)
        topic = f"{self.spec.name}.{TOPIC_OF[kind]}"
        source, id_ = f"/services/{kind}", self._id()
        record = self._event(number, source, id_, type_, data)
        self._remember((topic, record, number, take_back, source, id_))
        return topic, record

    def _void(self, place: int) -> tuple[str, Record]:
        """Take an event back. Its partition has it already, so nothing has to wait."""
        topic, event, number, take_back, source, id_ = self._recent[place]
        assert take_back is not None
        take_back()
        self.manifest.by_kind["void"] += 1
        self.manifest.voided += 1
        self._recent[place] = (topic, event, number, None, source, id_)
        data = {"source": source, "id": id_, "reason": "sent by mistake"}
        return topic, self._event(number, source, self._id(), "usage.voided", data)

    def _remember(
        self, made: tuple[str, Record, int, Callable[[], None] | None, str, str]
    ) -> None:
        if len(self._recent) < RECENT:
            self._recent.append(made)
        else:
            self._recent[int(self._draw.random() * RECENT)] = made

    def _id(self) -> str:
        # As long as a UUID, which is what most producers send.
        return f"{self._draw.getrandbits(64):016x}-0000-4000-{self._made:012d}"

    def _event(
        self, number: int, source: str, id_: str, type_: str, data: dict[str, object]
    ) -> Record:
        reached = self._began_ms + (self._now_ms - self._began_ms) * self._made // self.spec.events
        at = reached + int((self._draw.random() - 0.5) * 2_000 * JITTER_SECONDS)
        at = max(self._began_ms, min(at, self._now_ms))
        event = {
            "specversion": "1.0",
            "id": id_,
            "source": source,
            "type": type_,
            "subject": name_of(number),
            "time": f"{_second_text(at // 1_000)}.{at % 1_000:03}Z",
            "data": data,
        }
        return Record(name_of(number).encode(), orjson.dumps(event))

    # Kinds of events: type, data, and how to take it back where that can be done.

    def _add(self, number: int, product: str, quantity: int) -> Callable[[], None]:
        usage, key = self.manifest.usage, (number, product)
        usage[key] += quantity

        def take_back() -> None:
            usage[key] -= quantity

        return take_back

    def _workflow(self, number: int) -> _Made:
        actions = 1 + int(self._draw.random() * 5)
        take_back = self._add(number, "workflow", 1_000 * actions)
        return "workflow.executed", {"actions": actions}, take_back

    def _marketing(self, number: int) -> _Made:
        messages = 1 + int(self._draw.random() * 500)
        take_back = self._add(number, "marketing", 1_000 * messages)
        return "marketing.sent", {"messages": messages}, take_back

    def _message(self, number: int) -> _Made:
        draw = self._draw
        count = 1 + int(draw.random() * 3)
        chance = int(draw.random() * 20)
        data: dict[str, object]
        if chance < 16:
            kind = ("kakao_infotalk", "sms", "kakao_cstalk", "lms")[chance % 4]
            each = PU[kind]
            data = {"kind": kind, "count": count}
        else:
            country = ("US", "JP", "CA")[chance % 3]
            text, segments = TEXTS[int(draw.random() * 3)]
            data = {"kind": "global_sms", "count": count, "country": country}
            if chance < 18:
                data["segments"] = segments
            else:
                data["text"] = text
            message, segment = PU_OF_GLOBAL[country]
            each = message + segment * segments
        if draw.random() < 0.05:
            data["provider"], each = "twilio", 0
        return "message.sent", data, self._add(number, "pu", count * each)

    def _mu(self, number: int) -> _Made:
        count = int(self._draw.random() * 4_500)
        key = number, "mu"
        self.manifest.usage[key] = max(self.manifest.usage[key], 1_000 * count)
        return "mu.counted", {"count": count}, None

    def _seat(self, number: int) -> _Made:
        draw = self._draw
        seat = "basic" if draw.random() < 0.7 else "operator"
        person = int(draw.random() * 25)
        is_assigned = draw.random() < 0.65
        if is_assigned:
            self.manifest.holders[number, f"{seat}_seat"].add(person)
        type_ = "seat.assigned" if is_assigned else "seat.released"
        return type_, {"seat": seat, "manager": f"m-{person}"}, None


_Made = tuple[str, dict[str, object], "Callable[[], None] | None"]
_MAKERS = {
    "workflow": Workload._workflow,
    "marketing": Workload._marketing,
    "message": Workload._message,
    "mu": Workload._mu,
    "seat": Workload._seat,
}


@cache
def name_of(number: int) -> str:
    """Name a channel."""
    return f"channel-{number:06}"


@cache
def partition_of(key: bytes) -> int:
    """Choose the partition as the clients of Kafka do."""
    return int((murmur2(key) & 0x7FFFFFFF) % PARTITIONS)


@cache
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _a_month_before(moment: datetime) -> datetime:
    before = moment.replace(day=1) - timedelta(days=1)
    return before.replace(day=min(moment.day, monthrange(before.year, before.month)[1]))


def _command(number: int, type_: str, at: datetime, data: dict[str, object]) -> Record:
    name = name_of(number)
    command = {
        "specversion": "1.0",
        "id": f"{type_}-{data.get('lot', '')}-{number}",
        "source": "/billing",
        "type": type_,
        "subject": name,
        "time": at.isoformat().replace("+00:00", "Z"),
        "data": data,
    }
    return Record(name.encode(), orjson.dumps(command))
