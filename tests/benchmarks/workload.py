"""What the benchmark sends, and what it must come to, counted here without a line of the product.

Nothing in it can be refused or rejected: what is wrong with records is the business of the tests.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

import orjson

from tests.benchmarks.population import PARTITIONS, Record, name_of, partition_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.population import Chunk, Population

CHUNK_RECORDS = 100_000

# Shares of the kinds of events, by the name of the mix.
MIXES = {
    "all": {"workflow": 34, "message": 34, "marketing": 12, "mu": 8, "seat": 10, "void": 2},
    "counts": {"workflow": 70, "marketing": 30},
    "messages": {"message": 100},
    "levels": {"mu": 50, "seat": 50},
}
TOPICS = ("mu", "seat", "workflow", "message")
TOPIC_OF = {**{topic: topic for topic in TOPICS}, "marketing": "message"}

# Thousandths of a PU a message, as in the published price list.
PU = {"kakao_infotalk": 7_000, "kakao_cstalk": 80_000, "sms": 10_000, "lms": 28_000}
KINDS = tuple(PU)
PU_OF_GLOBAL = {"US": (14_000, 14_500), "CA": (14_000, 14_500), "JP": (14_000, 109_000)}
COUNTRIES = tuple(PU_OF_GLOBAL)
TEXTS = (("Your order is on its way.", 1), ("주문하신 상품이 발송되었습니다.", 1), ("a" * 200, 2))
TEXTS_IN_JSON = tuple((orjson.dumps(text).decode(), segments) for text, segments in TEXTS)

# Copies and voids are of one of so many records before them.
RECENT = 5_000
JITTER_MS = 900_000

# A channel and a product, and thousandths of a unit of it: what a void takes back.
Counted = tuple[tuple[int, str], int]


@dataclass(frozen=True)
class Spec:
    """What kind of traffic is wanted."""

    name: str
    events: int
    channels: int = 5_000
    mix: str = "all"
    is_skewed: bool = False  # One channel has half of the traffic.
    duplicates_percent: int = 0
    reach: tuple[float, float] = (0.0, 1.0)  # From when to when, of the days that there are.
    seed: int = 1
    partitions: int = PARTITIONS
    padding: int = 0  # Bytes of white space behind each event.


@dataclass
class Manifest:
    """What was sent, by what it must be found as."""

    records: int = 0
    bytes: int = 0
    duplicates: int = 0
    voided: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    # Thousandths of a unit of the running cycle, by channel and product; and who held a seat.
    usage: dict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))
    holders: dict[tuple[int, str], set[int]] = field(default_factory=lambda: defaultdict(set))

    def joined(self, other: Manifest) -> Manifest:
        """Put together what was sent one after the other to the same channels."""
        joined = Manifest(
            self.records + other.records,
            self.bytes + other.bytes,
            self.duplicates + other.duplicates,
            self.voided + other.voided,
            self.by_kind + other.by_kind,
        )
        for manifest in (self, other):
            for key, total in manifest.usage.items():
                before = joined.usage[key]
                # Of levels the highest counts.
                joined.usage[key] = max(before, total) if key[1] == "mu" else before + total
            for key, persons in manifest.holders.items():
                joined.holders[key] |= persons
        return joined

    def totals(self) -> dict[tuple[str, str], int]:
        """Sum up usage by channel and product; what is nothing is left out."""
        found = {(name_of(number), what): total for (number, what), total in self.usage.items()}
        for (number, seat), persons in self.holders.items():
            found[name_of(number), seat] = 1_000 * len(persons)
        return {key: total for key, total in found.items() if total}


@dataclass(slots=True)
class _Sent:
    """An event that a copy or a void may be of."""

    topic: str
    number: int
    record: Record
    source: str
    id: str
    counted: Counted | None  # None where it cannot be taken back, or was.


class Workload:
    """A reproducible stream of usage of a population.

    Written for speed, because a backlog of ten millions is made with it: texts are put together
    from pieces, not from objects.
    """

    def __init__(self, spec: Spec, population: Population) -> None:
        self.spec = spec
        self.manifest = Manifest()
        self._random = random.Random(spec.seed).random
        self._choices = random.Random(spec.seed + 1).choices
        began_ms = int(population.begins.timestamp() * 1_000)
        now_ms = int(population.now.timestamp() * 1_000) - 1_000
        begins, ends = spec.reach
        self._began_ms = began_ms + int(begins * (now_ms - began_ms))
        self._ended_ms = began_ms + int(ends * (now_ms - began_ms))
        self._padding = b" " * spec.padding
        self._made = 0
        self._recent: list[_Sent] = []
        self._makers = {
            "workflow": self._workflow,
            "marketing": self._marketing,
            "message": self._message,
            "mu": self._mu,
            "seat": self._seat,
        }

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of this stream alone, so that several backlogs can wait in one broker."""
        return tuple(f"{self.spec.name}.{topic}" for topic in TOPICS)

    def chunks(self) -> Iterator[Chunk]:
        """Make the records, some at a time."""
        while self._made < self.spec.events:
            yield self.some(min(CHUNK_RECORDS, self.spec.events - self._made))

    def some(self, count: int) -> Chunk:
        """Make the next records."""
        draw, channels, is_skewed = self._random, self.spec.channels, self.spec.is_skewed
        duplicates = self.spec.duplicates_percent / 100
        partitions = self.spec.partitions
        shares, recent, manifest = MIXES[self.spec.mix], self._recent, self.manifest
        made: Chunk = {
            (topic, partition): [] for topic in self.topics for partition in range(partitions)
        }
        for kind in self._choices(list(shares), list(shares.values()), k=count):
            if duplicates and recent and draw() < duplicates:
                manifest.duplicates += 1
                sent = recent[int(draw() * len(recent))]
                topic, number, record = sent.topic, sent.number, sent.record
            else:
                number = 0 if is_skewed and draw() < 0.5 else int(draw() * channels)
                topic, number, record = self._event(kind, number)
            made[topic, partition_of(number, partitions)].append(record)
            manifest.bytes += len(record.value)
            self._made += 1
        manifest.records += count
        return made

    def _event(self, kind: str, number: int) -> tuple[str, int, Record]:
        recent = self._recent
        if kind == "void":
            target = recent[int(self._random() * len(recent))] if recent else None
            if target is not None and target.counted is not None:
                return self._void(target)
            kind = "workflow"
        self.manifest.by_kind[kind] += 1
        type_, data, counted = self._makers[kind](number)
        topic, source = f"{self.spec.name}.{TOPIC_OF[kind]}", f"/services/{kind}"
        id_ = self._id()
        record = self._record(number, source, id_, type_, data)
        sent = _Sent(topic, number, record, source, id_, counted)
        if len(recent) < RECENT:
            recent.append(sent)
        else:
            recent[int(self._random() * RECENT)] = sent
        return topic, number, record

    def _void(self, target: _Sent) -> tuple[str, int, Record]:
        """Take an event back, on its own partition, which has it already: nothing has to wait."""
        assert target.counted is not None
        key, quantity = target.counted
        self.manifest.usage[key] -= quantity
        self.manifest.by_kind["void"] += 1
        self.manifest.voided += 1
        target.counted = None
        data = f'{{"source":"{target.source}","id":"{target.id}","reason":"sent by mistake"}}'
        source, number = target.source, target.number
        record = self._record(number, source, self._id(), "usage.voided", data)
        return target.topic, number, record

    def _id(self) -> str:
        # As long as a UUID, which is what most producers send; chance comes first, as in a UUID.
        return f"{int(self._random() * 2**52):016x}-{self.spec.seed:04}-4000-{self._made:012d}"

    def _record(self, number: int, source: str, id_: str, type_: str, data: str) -> Record:
        long_ms = self._ended_ms - self._began_ms
        reached = self._began_ms + long_ms * self._made // self.spec.events
        at = reached + int((self._random() - 0.5) * 2 * JITTER_MS)
        at = max(self._began_ms, min(at, self._ended_ms))
        minute, ms = divmod(at, 60_000)
        name = name_of(number)
        value = (
            f'{{"specversion":"1.0","id":"{id_}","source":"{source}","type":"{type_}",'
            f'"subject":"{name}","time":"{_minute_text(minute)}:{ms // 1_000:02}.{ms % 1_000:03}Z",'
            f'"data":{data}}}'
        )
        return Record(name.encode(), value.encode() + self._padding)

    # Kinds of events: type, data, and what was counted if it can be taken back.

    def _count(self, number: int, product: str, quantity: int) -> Counted:
        key = number, product
        self.manifest.usage[key] += quantity
        return key, quantity

    def _workflow(self, number: int) -> tuple[str, str, Counted | None]:
        actions = 1 + int(self._random() * 5)
        counted = self._count(number, "workflow", 1_000 * actions)
        return "workflow.executed", f'{{"actions":{actions}}}', counted

    def _marketing(self, number: int) -> tuple[str, str, Counted | None]:
        messages = 1 + int(self._random() * 500)
        counted = self._count(number, "marketing", 1_000 * messages)
        return "marketing.sent", f'{{"messages":{messages}}}', counted

    def _message(self, number: int) -> tuple[str, str, Counted | None]:
        draw = self._random
        count, chance = 1 + int(draw() * 3), int(draw() * 20)
        if chance < 16:
            kind = KINDS[chance % 4]
            each, data = PU[kind], f'{{"kind":"{kind}","count":{count}'
        else:
            country = COUNTRIES[chance % 3]
            text, segments = TEXTS_IN_JSON[int(draw() * 3)]
            message, segment = PU_OF_GLOBAL[country]
            each = message + segment * segments
            size = f'"segments":{segments}' if chance < 18 else f'"text":{text}'
            data = f'{{"kind":"global_sms","count":{count},"country":"{country}",{size}'
        if draw() < 0.05:
            # Through the customer's own account there: it costs nothing.
            each, data = 0, f'{data},"provider":"twilio"'
        return "message.sent", f"{data}}}", self._count(number, "pu", count * each)

    def _mu(self, number: int) -> tuple[str, str, Counted | None]:
        count = int(self._random() * 4_500)
        key = number, "mu"
        self.manifest.usage[key] = max(self.manifest.usage[key], 1_000 * count)
        return "mu.counted", f'{{"count":{count}}}', None

    def _seat(self, number: int) -> tuple[str, str, Counted | None]:
        draw = self._random
        seat, person = "basic" if draw() < 0.7 else "operator", int(draw() * 25)
        is_assigned = draw() < 0.65
        if is_assigned:
            self.manifest.holders[number, f"{seat}_seat"].add(person)
        type_ = "seat.assigned" if is_assigned else "seat.released"
        return type_, f'{{"seat":"{seat}","manager":"m-{person}"}}', None


@cache
def _minute_text(minute: int) -> str:
    return datetime.fromtimestamp(60 * minute, UTC).strftime("%Y-%m-%dT%H:%M")
