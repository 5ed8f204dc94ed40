"""Lines of a scenario that are short to write, and its books, short to read.

A time is written in full, or as a date alone: then it is noon of that day in Seoul.
"""

import itertools
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Line = dict[str, Any]

COMMANDS = "billing.commands"
USED_FROM = ("included", "own", "carried", "borrowed", "postpaid")
TAKEN_FROM_A_WINDOW = ("own", "carried", "borrowed", "minimum", "lent")

_numbers = itertools.count(1)


def instant(at: str) -> str:
    """Write a date as its noon in Seoul; a whole time stays as it is."""
    return at if "T" in at else f"{at}T12:00:00+09:00"


def line(  # A test names the two or three that it is about.
    topic: str,
    kind: str,
    at: str,
    data: dict[str, Any],
    *,
    channel: str = "c-1",
    source: str = "/tests",
    event_id: str | None = None,
    clock: str | None = None,
) -> Line:
    """Build one line; without an id it gets one that no other line has."""
    event = {
        "specversion": "1.0",
        "id": event_id or f"e-{next(_numbers)}",
        "source": source,
        "type": kind,
        "subject": channel,
        "time": instant(at),
        "data": data,
    }
    built = {"topic": topic, "event": event}
    return built if clock is None else built | {"clock": instant(clock)}


def arriving(built: Line, clock: str) -> Line:
    """Let the same line arrive at another time."""
    return built | {"clock": instant(clock)}


def with_data(built: Line, **data: object) -> Line:
    """Build the line anew under the same identity, some of its data changed."""
    event = built["event"]
    return built | {"event": event | {"data": event["data"] | data}}


def with_attributes(built: Line, **attributes: object) -> Line:
    """Build the line anew, some attributes of its envelope changed."""
    return built | {"event": built["event"] | attributes}


def registered(
    at: str,
    *,
    plan: str = "enterprise",
    billing_day: int | str = 1,
    time_zone: str = "Asia/Seoul",
    trial_ends_on: str | None = None,
    **envelope: str,
) -> Line:
    data: dict[str, Any] = {"plan": plan, "time_zone": time_zone, "billing_day": billing_day}
    if trial_ends_on is not None:
        data["trial_ends_on"] = trial_ends_on
    return line(COMMANDS, "channel.registered", at, data, **envelope)


def changed(at: str, *, clock: str | None = None, **values: object) -> Line:
    return line(COMMANDS, "channel.changed", at, values, clock=clock)


def limit_set(at: str, product: str, limit: int | None, **envelope: str) -> Line:
    return line(COMMANDS, "limit.set", at, {"product": product, "limit": limit}, **envelope)


def purchased(
    at: str, product: str, quantity: int, lot: str = "l-1", *, renew: bool = False, **envelope: str
) -> Line:
    data = {"lot": lot, "product": product, "quantity": quantity, "renew": renew}
    return line(COMMANDS, "lot.purchased", at, data, **envelope)


def scheduled(
    at: str, product: str, quantity: int, lot: str = "l-1", *, renew: bool = False, **envelope: str
) -> Line:
    data = {"lot": lot, "product": product, "quantity": quantity, "renew": renew}
    return line(COMMANDS, "lot.scheduled", at, data, **envelope)


def reservation_changed(
    at: str, lot: str = "l-1", *, clock: str | None = None, **values: object
) -> Line:
    return line(COMMANDS, "reservation.changed", at, {"lot": lot, **values}, clock=clock)


def reservation_cancelled(at: str, lot: str = "l-1", **envelope: str) -> Line:
    return line(COMMANDS, "reservation.cancelled", at, {"lot": lot}, **envelope)


def renewal_set(at: str, lot: str = "l-1", *, renew: bool, **envelope: str) -> Line:
    return line(COMMANDS, "lot.renewal_set", at, {"lot": lot, "renew": renew}, **envelope)


def refunded(at: str, lot: str = "l-1", **envelope: str) -> Line:
    return line(COMMANDS, "lot.refunded", at, {"lot": lot}, **envelope)


def contacts(at: str, count: int, **envelope: str) -> Line:
    return line("usage.mu", "mu.counted", at, {"count": count}, **envelope)


def assigned(at: str, manager: str = "m-1", *, seat: str = "operator", **envelope: str) -> Line:
    return line("usage.seat", "seat.assigned", at, {"seat": seat, "manager": manager}, **envelope)


def released(at: str, manager: str = "m-1", *, seat: str = "operator", **envelope: str) -> Line:
    return line("usage.seat", "seat.released", at, {"seat": seat, "manager": manager}, **envelope)


def workflow(at: str, actions: int, **envelope: str) -> Line:
    return line("usage.workflow", "workflow.executed", at, {"actions": actions}, **envelope)


def marketing(at: str, messages: int, **envelope: str) -> Line:
    return line("usage.message", "marketing.sent", at, {"messages": messages}, **envelope)


def message(
    at: str, kind: str = "sms", count: int = 1, *, clock: str | None = None, **data: object
) -> Line:
    return line(
        "usage.message", "message.sent", at, {"kind": kind, "count": count, **data}, clock=clock
    )


def voided(at: str, taken_back: Line, **envelope: str) -> Line:
    event = taken_back["event"]
    data = {"source": event["source"], "id": event["id"], "reason": "sent by mistake"}
    return line("usage.workflow", "usage.voided", at, data, **envelope)


@dataclass(frozen=True)
class Books:
    """A document of `simulate`, read by what a test asks for."""

    document: dict[str, Any]

    @property
    def outcomes(self) -> dict[str, Any]:
        return self.document["outcomes"]

    @property
    def rejected(self) -> dict[str, int]:
        return self.outcomes["rejected"]

    def channel(self, channel: str = "c-1") -> dict[str, Any]:
        return self.document["channels"][channel]

    def periods(self) -> list[tuple[str, str]]:
        """List the first and last days of the cycles."""
        return [(cycle["starts_on"], cycle["ends_on"]) for cycle in self.channel()["cycles"]]

    def cycle(self, starts_on: str) -> dict[str, Any]:
        [cycle] = [each for each in self.channel()["cycles"] if each["starts_on"] == starts_on]
        return cycle

    def product(self, product: str, starts_on: str) -> dict[str, Any]:
        """Return all that a cycle says about a product."""
        return self.cycle(starts_on)["products"][product]

    def usage(self, product: str, starts_on: str) -> str:
        """Return the usage of a cycle, 0 when it does not name the product."""
        return self.cycle(starts_on)["products"].get(product, {"usage": "0"})["usage"]

    def sources(self, product: str, starts_on: str) -> dict[str, str]:
        """Return where the usage of a cycle was taken from, empty sources left out."""
        found = self.product(product, starts_on)
        return {source: found[source] for source in USED_FROM if found[source] != "0"}

    def lot(self, lot: str = "l-1") -> dict[str, Any]:
        [found] = [each for each in self.channel()["lots"] if each["lot"] == lot]
        return found

    def lots(self) -> list[str]:
        return [lot["lot"] for lot in self.channel()["lots"]]

    def windows(self, lot: str = "l-1") -> list[dict[str, str]]:
        """Return what each window of a lot gave, zeros left out."""
        return [
            {source: window[source] for source in TAKEN_FROM_A_WINDOW if window[source] != "0"}
            for window in self.lot(lot)["windows"]
        ]

    def drawn(self, lot: str = "l-1") -> Decimal:
        """Return all usage that a lot paid, in all of its windows."""
        return self._given(lot, ("own", "carried", "borrowed"))

    def expired(self, lot: str = "l-1") -> Decimal:
        """Return what a windowed lot that has ended never gave."""
        found = self.lot(lot)
        assert found["state"] == "expired"
        assert found["pool"] == "0"
        given = self._given(lot, ("own", "carried", "borrowed", "minimum"))
        return 12 * Decimal(found["quantity"]) - given

    def _given(self, lot: str, sources: tuple[str, ...]) -> Decimal:
        windows = self.lot(lot)["windows"]
        return sum((Decimal(window[source]) for window in windows for source in sources), Decimal())

    def reservations(self) -> list[dict[str, Any]]:
        return self.channel()["reservations"]

    def notices(self, kind: str, product: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """List the days and details of the notices of one kind, of all products or one."""
        return [
            (notice["on"], notice["detail"])
            for notice in self.channel()["notices"]
            if notice["kind"] == kind and product in (None, notice["product"])
        ]

    def crossed(self, kind: str, product: str | None = None) -> list[tuple[str, int]]:
        """List the days and percents of the thresholds that were crossed."""
        return sorted((on, detail["percent"]) for on, detail in self.notices(kind, product))

    def refusals(self) -> list[str]:
        """List why commands were refused, in order of the day."""
        return [detail["reason"] for _, detail in self.notices("command_refused")]
