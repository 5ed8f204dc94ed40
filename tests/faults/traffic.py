"""What is sent, and a list of it: events, copies, defects and commands, made from a seed.

Commands are such that their answers do not depend on what usage was read before them, and times
such that no cycle closes meanwhile: so what the books must say does not depend on chance.
"""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import orjson

ZONES = ("Asia/Seoul", "America/New_York", "Europe/Berlin", "UTC", "Asia/Kathmandu")
PLANS = ("enterprise", "growth", "early_stage", "enterprise")
SMS = "Your parcel is on its way."

# Of a thousand messages, so many are copies, conflicts, voids, defects, too early, or late.
COPIES, CONFLICTS, VOIDS, DEFECTS, EARLY, LATE = 60, 6, 12, 12, 3, 25
RECENT = 400
REGISTERED_DAYS = 75


class Message(NamedTuple):
    """Something to produce; `partition` None leaves it to the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    defect: str = ""
    partition: int | None = None
    headers: tuple = ()


class Traffic:
    """Channels and what they do. The topics are those of the rules; a world gives them names."""

    def __init__(self, seed, *, copy_elsewhere=True):
        self.draw = random.Random(seed)
        self.now = datetime.now(UTC)
        self.prefix = f"{seed:x}"
        self.channels = []
        # Those whose past cycles are closed for certain: only of them it is known what is late.
        self.settled = []
        self.sent = Counter()
        self.sms, self.managers = SMS, "m"
        self._number = 0
        self._recent = []
        self._copy_elsewhere = copy_elsewhere
        # A cycle that ends around now would close, or be late, by chance.
        days = {(self.now - timedelta(days=back)).day for back in range(-2, 7)}
        self._billing_days = [day for day in range(1, 28) if day not in days]

    # Commands

    def register(self, count):
        """Register channels, whose first cycles are to be closed at once, and buy what they use."""
        for _ in range(count):
            channel = f"ch-{self.prefix}-{len(self.channels)}"
            self.channels.append(channel)
            yield from self._registration(channel)

    def _registration(self, channel):
        draw = self.draw
        data = {
            "plan": draw.choice(PLANS),
            "time_zone": draw.choice(ZONES),
            "billing_day": draw.choice(self._billing_days),
        }
        begun = self.now - timedelta(days=REGISTERED_DAYS, seconds=draw.randrange(3600))
        yield self.command(channel, "channel.registered", begun, data)
        at = self.now - timedelta(days=2)
        for number, (product, low, high) in enumerate(
            (("workflow", 5, 400), ("workflow", 5, 100), ("pu", 100, 9000), ("marketing", 50, 5000),
             ("mu", 100, 900), ("basic_seat", 1, 4), ("security_bundle", 1, 1)), start=1
        ):  # fmt: skip
            if draw.randrange(5) == 0:
                continue
            quantity = draw.randint(low, high)
            lot = {"lot": f"l-{number}", "product": product, "quantity": quantity, "renew": True}
            at += timedelta(seconds=7)
            bought = self.command(channel, "lot.purchased", at, lot)
            yield bought
            if draw.randrange(6) == 0:
                yield bought._replace(defect="copy")
            if draw.randrange(8) == 0:
                at += timedelta(seconds=1)
                # Refused: the id is used.
                yield self.command(channel, "lot.purchased", at, {**lot, "quantity": quantity + 1})
            if product == "security_bundle" and draw.randrange(2):
                at += timedelta(seconds=1)
                yield self.command(channel, "lot.refunded", at, {"lot": lot["lot"]})
        if draw.randrange(3) == 0:
            limit = {"product": "workflow", "limit": draw.randrange(500)}
            yield self.command(channel, "limit.set", at + timedelta(seconds=2), limit)
        if draw.randrange(3) == 0:
            later = {"lot": "r-1", "product": "marketing", "quantity": 700, "renew": False}
            yield self.command(channel, "lot.scheduled", at + timedelta(seconds=3), later)

    def command(self, channel, kind, at, data):
        """Make a command."""
        self.sent["command"] += 1
        return Message(
            "billing.commands", channel.encode(),
            orjson.dumps(self._event(channel, kind, "/billing", at, data)),
        )  # fmt: skip

    # Usage

    def usage(self, count):
        """Use what was bought, with everything that goes wrong in such traffic."""
        for _ in range(count):
            chance = self.draw.randrange(1000)
            for share, make in (
                (COPIES, self._copy), (CONFLICTS, self._conflict), (VOIDS, self._void),
                (DEFECTS, self._any_defect), (EARLY, self._early),
            ):  # fmt: skip
                if chance < share:
                    yield make()
                    break
                chance -= share
            else:
                yield self._use(is_late=chance < LATE)

    def plain(self, channel=None, *, at=None):
        """Make one event that will be counted."""
        return self._use(is_late=False, channel=channel, at=at)

    def forget(self):
        """Copy, contradict and take back nothing of what was sent so far."""
        self._recent.clear()

    def _use(self, *, is_late, channel=None, at=None):
        draw = self.draw
        is_late = is_late and bool(self.settled)
        channel = channel or draw.choice(self.settled if is_late else self.channels)
        back = timedelta(seconds=draw.randrange(60, 47 * 3600))
        if is_late:
            # Of a day that may be in a closed cycle; never at the edge of what is too old.
            back = timedelta(days=draw.randrange(3, 33), seconds=draw.randrange(3600))
        at = at or self.now - back
        manager = f"{self.managers}-{draw.randrange(9)}"
        seat = {"seat": draw.choice(("basic", "operator")), "manager": manager}
        kind, topic, data = draw.choice((
            ("workflow.executed", "usage.workflow", {"actions": draw.randint(1, 5)}),
            ("workflow.executed", "usage.workflow", {"actions": 1}),
            ("marketing.sent", "usage.message", {"messages": draw.randint(1, 60)}),
            ("message.sent", "usage.message", {"kind": "sms", "count": draw.randint(1, 9)}),
            ("message.sent", "usage.message",
             {"kind": "global_sms", "country": "JP", "count": 1, "text": self.sms}),
            ("mu.counted", "usage.mu", {"count": draw.randint(0, 4000)}),
            ("seat.assigned", "usage.seat", seat),
            ("seat.released", "usage.seat", seat),
        ))  # fmt: skip
        service = f"/services/{topic.partition('.')[2]}"
        event = self._event(channel, kind, service, at, data)
        message = Message(topic, channel.encode(), orjson.dumps(event))
        self.sent["event"] += 1
        if len(self._recent) >= RECENT:
            self._recent[draw.randrange(RECENT)] = (message, event)
        else:
            self._recent.append((message, event))
        return message

    def _copy(self):
        if not self._recent:
            return self.plain()
        self.sent["copy"] += 1
        message, event = self.draw.choice(self._recent)
        topic = message.topic
        if self._copy_elsewhere and self.draw.randrange(3) == 0:
            # On another topic, and in other words for the same.
            topic = self.draw.choice(("usage.workflow", "usage.message", "usage.mu"))
        again = orjson.dumps({**event, "traceparent": "00-1"})
        return Message(topic, message.key, again, "copy")

    def _conflict(self):
        if not self._recent:
            return self.plain()
        self.sent["conflict"] += 1
        message, event = self.draw.choice(self._recent)
        # In the partition of the first, so that which one was first is no chance.
        changed = (datetime.fromisoformat(event["time"]) + timedelta(seconds=1)).isoformat()
        return message._replace(value=orjson.dumps({**event, "time": changed}), defect="conflict")

    def _void(self):
        for place, (message, event) in enumerate(self._recent):
            if event["type"] in ("workflow.executed", "marketing.sent", "message.sent") and (
                datetime.fromisoformat(event["time"]) > self.now - timedelta(days=2)
            ):
                del self._recent[place]
                self.sent["void"] += 1
                data = {"source": event["source"], "id": event["id"], "reason": "by mistake"}
                at = self.now - timedelta(seconds=30)
                void = self._event(event["subject"], "usage.voided", "/operators", at, data)
                return Message(message.topic, message.key, orjson.dumps(void), "void")
        return self.plain()

    def _early(self):
        """Use a channel that nobody has registered yet, and perhaps never will."""
        channel = f"ch-{self.prefix}-{len(self.channels) + self.draw.randrange(3)}"
        self.sent["early"] += 1
        return self.plain(channel)._replace(defect="early")

    def defects(self):
        """Send what cannot be counted, one record for each reason."""
        for name, make in DEFECTS_BY_REASON.items():
            yield self._defect(name, make)

    def _any_defect(self):
        return self._defect(*self.draw.choice(tuple(DEFECTS_BY_REASON.items())))

    def _defect(self, name, make):
        self.sent["defect"] += 1
        event = self._event(
            self.draw.choice(self.channels), "workflow.executed", "/services/workflow",
            self.now - timedelta(hours=1), {"actions": 1},
        )  # fmt: skip
        topic = "billing.commands" if name == "wrong_topic" else "usage.workflow"
        value = make(event, self.now)
        raw = value if isinstance(value, bytes) else orjson.dumps(value)
        return Message(topic, event["subject"].encode(), raw, name)

    def _event(self, channel, kind, source, at, data):
        self._number += 1
        return {
            "specversion": "1.0",
            "id": f"{self.prefix}-{self._number}",
            "source": source,
            "type": kind,
            "subject": channel,
            "time": at.isoformat().replace("+00:00", "Z"),
            "data": data,
        }


def _message(event, **data):
    return {**event, "type": "message.sent", "data": {"kind": "global_sms", "count": 1, **data}}


# Each is a record that cannot be counted, by the reason that it must be rejected for.
DEFECTS_BY_REASON = {
    "too_large": lambda event, _: {**event, "padding": "x" * 70_000},
    "malformed": lambda event, _: orjson.dumps(event)[:-3],
    "unknown_type": lambda event, _: {**event, "type": "workflow.imagined"},
    "wrong_topic": lambda event, _: event,
    "empty_text": lambda event, _: _message(event, country="US", text=""),
    "no_price": lambda event, _: _message(event, country="AQ", segments=1),
    "in_future": lambda event, now: {**event, "time": (now + timedelta(days=1)).isoformat()},
    "too_old": lambda event, now: {**event, "time": (now - timedelta(days=60)).isoformat()},
}
