"""The channels that a benchmark is about: their plans and lots, and when all of it is."""

from __future__ import annotations

from calendar import monthrange
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import orjson
from aiokafka.partitioner import murmur2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

# Of each topic. With fewer, more channels come with each batch; with more, each member asks for
# more, and in a stream gets less of each (docs/scale.md).
PARTITIONS = 16

# Previous cycles stay open while a benchmark runs, so that a lot can be in its second window and
# give carried units. With a month of traffic they ended a month ago: one that may close by then
# does so while its channel buys its lots, and refuses them.
CLOSING_HOURS = 35 * 24

# At noon in UTC it is the same day in all of these.
ZONES = ("Asia/Seoul", "Asia/Tokyo", "America/New_York", "Europe/Berlin", "UTC", "Asia/Kathmandu")
PLANS = ("enterprise", "growth", "enterprise", "growth", "free")
# How much of its usage to come a channel has bought. The first kind is in the second month of its
# lots, and needs some of what the first month left; the second overdraws and ends postpaid; the
# others have plenty, as most customers do.
SHARES_BOUGHT = (0.7, 0.3, 3.0, 3.0)
OLD = 0
# What an event of the mix of all kinds uses of a product, on average.
USED_AN_EVENT = {"pu": 29.0, "workflow": 1.0, "marketing": 30.0}
CONTACTS, SEATS = 4_500, 18
# What one purchase is at least.
LEAST = {"pu": 100}
LAST_BILLING_DAY = 27


class Record(NamedTuple):
    """A record that is to be produced."""

    key: bytes
    value: bytes


# Records by topic and partition.
Chunk = dict[tuple[str, int], list[Record]]


class Population:
    """Channels with plans and lots for so many events each, or up to twice as many."""

    def __init__(
        self,
        channels: int,
        *,
        events_each: int,
        days: int,
        now: datetime,
        mark: str,
        partitions: int = PARTITIONS,
    ) -> None:
        self.channels, self.partitions = channels, partitions
        self.now = now
        self._events = events_each
        self.commands_topic = f"{mark}.commands.{channels}.{events_each}.{days}.{partitions}"
        noon = now.replace(hour=12, minute=0, second=0, microsecond=0)
        days_ago = noon - timedelta(days=days)
        # The cycle of old channels begins here, and so does the traffic of all.
        self.begins = days_ago.replace(day=min(days_ago.day, LAST_BILLING_DAY))
        self._old_since = _a_month_before(self.begins)
        self._since = noon - timedelta(days=10) if days < 10 else self._old_since

    def commands(self) -> Chunk:
        """Register every channel and buy its lots."""
        made: Chunk = {(self.commands_topic, number): [] for number in range(self.partitions)}
        for number in range(self.channels):
            records = made[self.commands_topic, partition_of(number, self.partitions)]
            records += self._commands_of(number)
        return made

    def _commands_of(self, number: int) -> Iterator[Record]:
        kind = number % len(SHARES_BOUGHT)
        since = self._old_since if kind == OLD else self._since
        zone, plan = ZONES[number % len(ZONES)], PLANS[number % len(PLANS)]
        registration = {
            "plan": plan,
            "time_zone": zone,
            "billing_day": min(since.day, LAST_BILLING_DAY),
        }
        yield _command(number, "channel.registered", since, registration)
        bought = SHARES_BOUGHT[kind]
        lots = {"mu": round(bought * CONTACTS), "basic_seat": round(bought * SEATS)}
        for product, used in USED_AN_EVENT.items():
            lots[product] = max(LEAST.get(product, 1), round(bought * used * self._events))
        if plan == "free":
            lots = {"pu": lots["pu"]}
        for place, (product, quantity) in enumerate(lots.items(), start=1):
            lot = {"lot": f"lot-{place}", "product": product, "quantity": quantity}
            yield _command(number, "lot.purchased", since + timedelta(minutes=place), lot)


@cache
def name_of(number: int) -> str:
    """Name a channel."""
    return f"channel-{number:06}"


@cache
def partition_of(number: int, partitions: int = PARTITIONS) -> int:
    """Choose the partition of a channel as the clients of Kafka do."""
    return int((murmur2(name_of(number).encode()) & 0x7FFFFFFF) % partitions)


def _a_month_before(moment: datetime) -> datetime:
    before = moment.replace(day=1) - timedelta(days=1)
    return before.replace(day=min(moment.day, monthrange(before.year, before.month)[1]))


def _command(number: int, type_: str, at: datetime, data: dict[str, object]) -> Record:
    command = {
        "specversion": "1.0",
        "id": f"{type_}-{data.get('lot', '')}-{number}",
        "source": "/billing",
        "type": type_,
        "subject": name_of(number),
        "time": at.isoformat().replace("+00:00", "Z"),
        "data": data,
    }
    return Record(name_of(number).encode(), orjson.dumps(command))
