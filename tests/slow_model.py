"""An independent, slow and literal model of the books of `lotmeter simulate`.

After each line, in order, the clock moves, what is due happens, then the line is decided. The books
are poured again from the first day of the channel whenever they are asked for.

    python tests/slow_model.py FILE AS_OF
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if not __package__:
    # Run as a file, Python would look for the other modules beside this one only.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.slow_model_channel import (
    Channel,
    Counted,
    Lot,
    Reservation,
    Value,
    last_billing_date,
    next_billing_date,
    purchase_refusal,
    schedule_refusal,
)
from tests.slow_model_pour import DAY, SOURCES, Crossing, amount_of, decimal_text, money_text
from tests.slow_model_reading import THOUSANDTHS, Record, read_line, read_time

if TYPE_CHECKING:
    from collections.abc import Iterator

HORIZON = timedelta(days=35)
AHEAD_MAX = timedelta(minutes=10)
REFUND_DAYS = 7
EXPIRING_DAYS = (30, 7)

ENTITLEMENTS = {"white_label", "security_bundle"}
METERED = ("mu", "basic_seat", "operator_seat", "workflow", "marketing", "pu")

PRODUCT_OF_TYPE = {
    "mu.counted": "mu",
    "workflow.executed": "workflow",
    "marketing.sent": "marketing",
    "message.sent": "pu",
}
VOIDABLE = {"workflow", "marketing", "pu"}


class Simulation:
    """Everything that is known while the lines are read."""

    def __init__(self) -> None:
        self.clock: datetime | None = None
        self.channels: dict[str, Channel] = {}
        self.outcomes: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.contents: dict[tuple[str, str, str], Any] = {}
        self.applied: dict[tuple[str, str, str], Record] = {}
        self.events: dict[tuple[str, str, str], Counted] = {}
        self.parked: list[Record] = []
        self._reads = 0

    # The clock.

    def take(self, line: dict[str, Any]) -> None:
        """First the clock moves, then what is due happens, then the line."""
        record, time = read_line(line)
        arrived = read_time(line["clock"]) if "clock" in line else time
        if arrived is not None:
            self.move(arrived)
        if isinstance(record, str):
            self.rejected[record] += 1
        else:
            self.decide(record)
        self.look()

    def move(self, at: datetime) -> None:
        """Move the clock, never back, and let happen what is due."""
        if self.clock is not None and at <= self.clock:
            return
        self.clock = at
        # "At the horizon, by their own time, they are rejected."
        for record in [record for record in self.parked if at - record.time > HORIZON]:
            self._drop_parked(record)
        for channel in self.channels.values():
            self._close(channel)
            self._do_due(channel)
        self.look()

    def today(self, channel: Channel) -> date:
        """Name the clock's day in a channel."""
        assert self.clock is not None
        return channel.day_of(self.clock)

    def _close(self, channel: Channel) -> None:
        """Freeze the tallies of each cycle that is closed; "at exactly that instant it is"."""
        assert self.clock is not None
        for start, end in channel.cycles_up_to(self.today(channel)):
            if start >= channel.open_from and self.clock >= channel.closes_at(end):
                channel.frozen[start] = {
                    product: channel.tally(product, start, end) for product in METERED
                }
                channel.frozen_kinds[start] = channel.kinds(start, end, end)
                channel.open_from = end

    def _do_due(self, channel: Channel) -> None:
        """Renew and execute, each as of its own day, until nothing is due any more."""
        today = self.today(channel)
        while True:
            due: list[tuple[tuple[Any, ...], Lot | Reservation]] = []
            for lot in channel.lots:
                if not lot.is_refunded and not lot.is_renewal_decided and lot.ends_on < today:
                    # "Renewals in burn order; reservations in the order they were read."
                    burn_order = (lot.ends_on, lot.starts_on, lot.id)
                    due.append(((lot.ends_on + DAY, 0, burn_order), lot))
            for order, reservation in enumerate(channel.reservations):
                day = self._execution_day(channel, reservation, today)
                if reservation.is_waiting and day is not None and day <= today:
                    due.append(((day, 1, (order,)), reservation))
            if not due:
                return
            (day, *_), first = min(due, key=lambda pair: pair[0])
            if isinstance(first, Lot):
                self._renew(channel, first, day)
            else:
                self._execute(channel, first, day)

    def _execution_day(
        self, channel: Channel, reservation: Reservation, today: date
    ) -> date | None:
        """Say when a reservation buys; None while that is not known."""
        if reservation.executes_on is not None:
            return reservation.executes_on
        # "Buys on the first day, the day it was made included, on which the plan is neither `trial`
        # nor `free` (`pu`: on the first day no longer on trial)."
        waits_on = ("trial",) if reservation.product == "pu" else ("trial", "free")
        days = {reservation.made_on} | channel.plan_days()
        for day in sorted(day for day in days if reservation.made_on <= day <= today):
            if channel.status_on(day) not in waits_on:
                return day
        return None

    def _renew(self, channel: Channel, lot: Lot, day: date) -> None:
        lot.is_renewal_decided = True
        if not lot.renew.on(lot.ends_on):
            return
        name = f"{lot.id.split('~')[0]}~{lot.number + 1}"
        reason = purchase_refusal(channel, lot.product, lot.quantity, day)
        if reason:
            detail = {"lot": name, "reason": reason}
            channel.notify("renewal_refused", lot.product, day, detail)
            return
        renewed = Lot(
            id=name,
            product=lot.product,
            quantity=lot.quantity,
            starts_on=day,
            number=lot.number + 1,
        )
        self._start(channel, renewed, renew=True, at=channel.first_instant(day))
        channel.notify("lot_renewed", lot.product, day, {"lot": name})

    def _execute(self, channel: Channel, reservation: Reservation, day: date) -> None:
        reservation.is_waiting = False
        # "It buys with the quantity and flag of the day it buys on."
        quantity, renew = reservation.quantity.on(day), reservation.renew.on(day)
        reason = purchase_refusal(channel, reservation.product, quantity, day)
        if reason:
            detail = {"lot": reservation.id, "reason": reason}
            channel.notify("reservation_refused", reservation.product, day, detail)
            return
        lot = Lot(id=reservation.id, product=reservation.product, quantity=quantity, starts_on=day)
        self._start(channel, lot, renew=renew, at=channel.first_instant(day))
        channel.notify("reservation_executed", reservation.product, day, {"lot": reservation.id})

    def _start(self, channel: Channel, lot: Lot, *, renew: bool, at: datetime) -> None:
        """Start a lot; its flag is set at the time of the purchase, or as its first day begins."""
        lot.renew.put(lot.starts_on, at, self._reads, renew)
        channel.products_of_lots[lot.id] = lot.product
        channel.version[lot.product] += 1
        channel.lots.append(lot)

    # Notices.

    def look(self) -> None:
        """Issue what was crossed and what the calendar brings, once each."""
        for channel in self.channels.values():
            today = self.today(channel)
            state = (today, channel.version.total())
            if channel.looked == state:
                continue
            channel.looked = state
            for product in METERED:
                for crossing in channel.pour(product, today).crossings:
                    channel.tell(crossing)
            for lot in channel.lots:
                for crossing in self._dates_of(lot):
                    if crossing.on <= today:
                        channel.tell(crossing)

    @staticmethod
    def _dates_of(lot: Lot) -> Iterator[Crossing]:
        """List what the calendar brings for a lot."""
        key, named = (lot.product, lot.id), {"lot": lot.id}
        # A lot of a day ahead "waits for its day".
        yield Crossing(key=("lot_started", *key), on=lot.starts_on, detail=named)
        if not lot.is_refunded:
            for days in EXPIRING_DAYS:
                day, detail = lot.ends_on - days * DAY, {**named, "days": days}
                yield Crossing(key=("lot_expiring", *key, days), on=day, detail=detail)
            yield Crossing(key=("lot_expired", *key), on=lot.ends_on + DAY, detail=named)

    # Records.

    def decide(self, record: Record) -> None:
        """Decide a record that was just read, and whatever waited for it."""
        assert self.clock is not None
        if record.time > self.clock + AHEAD_MAX:
            self.rejected["in_future"] += 1
        elif not record.is_command and self.clock - record.time > HORIZON:
            self.rejected["too_old"] += 1
        elif record.identity in self.contents:
            is_copy = self.contents[record.identity] == record.content
            if is_copy:
                self.outcomes["duplicate"] += 1
            else:
                self.rejected["conflict"] += 1
        else:
            self.contents[record.identity] = record.content
            if not self._settle(record):
                self.parked.append(record)
                # A command is never too old, but what is parked waits no longer than the horizon.
                if self.clock - record.time > HORIZON:
                    self._drop_parked(record)
                # A void that waits has an identity too, and nothing can take it back.
                self._take_up()

    def _settle(self, record: Record) -> bool:
        """Apply or reject a record and take up what waited for it; False if it must wait."""
        reason = self._apply(record)
        if reason == "parked":
            return False
        if reason:
            # "A rejected record leaves no trace of its identity."
            del self.contents[record.identity]
            self.rejected[reason] += 1
            return True
        self.outcomes["applied"] += 1
        self.applied[record.identity] = record
        self.look()
        self._take_up()
        return True

    def _take_up(self) -> None:
        # "They are taken up in the order they came when what they wait for comes."
        for waiting in list(self.parked):
            if self._may_be_taken_up(waiting) and waiting in self.parked:
                self.parked.remove(waiting)
                if not self._settle(waiting):
                    self.parked.append(waiting)

    def _may_be_taken_up(self, record: Record) -> bool:
        if record.channel not in self.channels:
            return False
        return record.type != "usage.voided" or self._target(record) in self.contents

    def _drop_parked(self, record: Record) -> None:
        self.parked.remove(record)
        del self.contents[record.identity]
        is_known = record.channel in self.channels
        self.rejected["unknown_event" if is_known else "unknown_channel"] += 1

    @staticmethod
    def _target(record: Record) -> tuple[str, str, str]:
        return (record.channel, record.data["source"], record.data["id"])

    def _apply(self, record: Record) -> str:
        """Apply a record; return a reject reason, `parked`, or nothing."""
        channel = self.channels.get(record.channel)
        if channel is None:
            if record.type != "channel.registered":
                return "parked"
            self._register(record)
            return ""
        if record.is_command:
            self._reads += 1
            self._command(channel, record)
            return ""
        if record.type == "usage.voided":
            return self._void(channel, record)
        day = channel.day_of(record.time)
        # An event of a closed cycle is late, and "usage of earlier days [than the first cycle] is
        # treated as of a closed cycle": it counts on the first day of the earliest open cycle.
        if day < channel.open_from:
            self.outcomes["late"] += 1
        event = Counted(record=record, day=day, counts_on=max(day, channel.open_from))
        channel.events.append(event)
        self.events[record.identity] = event
        seat = record.data.get("seat")
        channel.version[f"{seat}_seat" if seat else PRODUCT_OF_TYPE[record.type]] += 1
        return ""

    def _void(self, channel: Channel, record: Record) -> str:
        """Take an event back while the cycle that it counts in is open."""
        target = self._target(record)
        if target not in self.contents:
            return "parked"
        event = self.events.get(target)
        if event is None:
            # An event that waits for its channel too is taken up before its void, in any order:
            # "the order in which usage events arrive never matters". All else cannot be voided.
            waiting = [record for record in self.parked if record.identity == target]
            is_event = any(PRODUCT_OF_TYPE.get(each.type) in VOIDABLE for each in waiting)
            return "parked" if is_event else "not_voidable"
        product = PRODUCT_OF_TYPE.get(event.record.type)
        if product not in VOIDABLE:
            return "not_voidable"
        if event.is_voided:
            return "already_voided"
        if event.counts_on < channel.open_from:
            return "cycle_closed"
        event.is_voided = True
        channel.version[product] += 1
        return ""

    def _register(self, record: Record) -> None:
        data = record.data
        zone = ZoneInfo(data["time_zone"])
        day = record.time.astimezone(zone).date()
        # "The first cycle is the one that holds the day of the registration."
        first = last_billing_date(day, data["billing_day"])
        channel = Channel(
            id=record.channel,
            zone=zone,
            first_cycle_on=first,
            first_cycle_end=next_billing_date(first, data["billing_day"]),
            values={},
            open_from=first,
        )
        # "The registration's values hold from the first day of the first cycle; a value set for a
        # day before the registration, in its cycle, counts from its own day on."
        self._set_values(channel, data, first, datetime.min.replace(tzinfo=UTC))
        self.channels[record.channel] = channel
        # A registration is never too late, but "its closed cycles are empty".
        self._close(channel)

    def _set_values(self, channel: Channel, data: dict[str, Any], day: date, at: datetime) -> None:
        for key in ("plan", "billing_day"):
            if key in data:
                channel.value(key).put(day, at, self._reads, data[key])
        if "trial_ends_on" in data:
            ends_on = date.fromisoformat(data["trial_ends_on"])
            channel.value("trial_ends_on").put(day, at, self._reads, ends_on)
        channel.version["*"] += 1

    # Commands.

    def _command(self, channel: Channel, record: Record) -> None:
        """Decide a command, once, against the books as they now stand."""
        day, lot_id = channel.day_of(record.time), record.data.get("lot")
        if record.type == "channel.registered":
            reason = "already_registered"
        elif day < channel.open_from:
            reason = "too_late"
        else:
            decide = {
                "channel.changed": self._change,
                "limit.set": self._limit,
                "lot.purchased": self._purchase,
                "lot.scheduled": self._schedule,
                "reservation.changed": self._change_reservation,
                "reservation.cancelled": self._cancel_reservation,
                "lot.renewal_set": self._set_renewal,
                "lot.refunded": self._refund,
            }[record.type]
            reason = decide(channel, record, day)
        if reason:
            product = record.data.get("product") or channel.products_of_lots.get(lot_id or "")
            detail = {"reason": reason, "id": record.id}
            if lot_id is not None:
                detail["lot"] = lot_id
            channel.notify("command_refused", product, day, detail)
        # "What is then already due happens at once, as of its own day."
        self._do_due(channel)

    def _change(self, channel: Channel, record: Record, day: date) -> str:
        self._set_values(channel, record.data, day, record.time)
        return ""

    def _limit(self, channel: Channel, record: Record, day: date) -> str:
        product = record.data["product"]
        limit = channel.value("limit", product)
        limit.put(day, record.time, self._reads, record.data["limit"])
        channel.version[product] += 1
        return ""

    def _purchase(self, channel: Channel, record: Record, day: date) -> str:
        data = record.data
        if data["lot"] in channel.products_of_lots:
            return "lot_exists"
        reason = purchase_refusal(channel, data["product"], data["quantity"], day)
        if not reason:
            lot = Lot(
                id=data["lot"], product=data["product"], quantity=data["quantity"], starts_on=day
            )
            self._start(channel, lot, renew=data["renew"], at=record.time)
        return reason

    def _schedule(self, channel: Channel, record: Record, day: date) -> str:
        data = record.data
        if data["lot"] in channel.products_of_lots:
            return "lot_exists"
        # "A reservation that buys on the next billing date strictly after the day it was made."
        executes_on = None
        if channel.status_on(day) != "trial":
            executes_on = channel.boundary_after(day)
        reason = schedule_refusal(channel, data["product"], data["quantity"], executes_on)
        if reason:
            return reason
        reservation = Reservation(
            id=data["lot"],
            product=data["product"],
            quantity=Value(),
            renew=Value(),
            made_on=day,
            executes_on=executes_on,
        )
        reservation.quantity.put(day, record.time, self._reads, data["quantity"])
        reservation.renew.put(day, record.time, self._reads, data["renew"])
        channel.reservations.append(reservation)
        channel.products_of_lots[data["lot"]] = data["product"]
        channel.notify("reservation_made", data["product"], day, {"lot": data["lot"]})
        return ""

    @staticmethod
    def _waiting(channel: Channel, name: str, day: date) -> Reservation | None:
        """Find a reservation that may be changed: until the day before and as long as it waits."""
        for reservation in channel.reservations:
            if reservation.id == name and reservation.is_waiting:
                executes_on = reservation.executes_on
                return reservation if executes_on is None or day < executes_on else None
        return None

    def _change_reservation(self, channel: Channel, record: Record, day: date) -> str:
        reservation = self._waiting(channel, record.data["lot"], day)
        if reservation is None:
            return "unknown_reservation"
        if "quantity" in record.data:
            # "A new quantity is checked like the first one, with what is known then."
            quantity = record.data["quantity"]
            reason = schedule_refusal(
                channel, reservation.product, quantity, reservation.executes_on
            )
            if reason:
                return reason
            reservation.quantity.put(day, record.time, self._reads, quantity)
        if "renew" in record.data:
            reservation.renew.put(day, record.time, self._reads, record.data["renew"])
        detail = {"lot": reservation.id}
        channel.notify("reservation_changed", reservation.product, day, detail)
        return ""

    def _cancel_reservation(self, channel: Channel, record: Record, day: date) -> str:
        reservation = self._waiting(channel, record.data["lot"], day)
        if reservation is None:
            return "unknown_reservation"
        reservation.is_waiting = False
        detail = {"lot": reservation.id}
        channel.notify("reservation_cancelled", reservation.product, day, detail)
        return ""

    @staticmethod
    def _lot(channel: Channel, name: str) -> Lot | None:
        return next((lot for lot in channel.lots if lot.id == name), None)

    def _set_renewal(self, channel: Channel, record: Record, day: date) -> str:
        lot = self._lot(channel, record.data["lot"])
        # It can be switched "up to the last day and as long as the renewal is not decided
        # (`unknown_lot` for a lot that is not there, ended or was refunded)".
        if lot is None or lot.is_refunded or lot.is_renewal_decided or day > lot.ends_on:
            return "unknown_lot"
        lot.renew.put(day, record.time, self._reads, record.data["renew"])
        return ""

    def _refund(self, channel: Channel, record: Record, day: date) -> str:
        lot = self._lot(channel, record.data["lot"])
        if lot is None or lot.is_refunded:
            return "unknown_lot"
        if day > lot.starts_on + REFUND_DAYS * DAY:
            return "refund_window_over"
        if lot.product not in ENTITLEMENTS:
            poured = channel.pour(lot.product, self.today(channel))
            filling = poured.fillings[lot.id]
            whole = lot.quantity * THOUSANDTHS * (1 if lot.product == "pu" else 12)
            # "Only if nothing at all was deducted, drawn or minimum, when the command is read."
            if filling.pool < whole:
                return "already_deducted"
        lot.is_refunded = True
        channel.version[lot.product] += 1
        channel.notify("lot_refunded", lot.product, day, {"lot": lot.id})
        return ""

    # The document.

    def document(self) -> dict[str, Any]:
        """Write the books as `simulate --json` does."""
        assert self.clock is not None
        outcomes = {name: self.outcomes[name] for name in ("applied", "duplicate", "late")}
        return {
            "as_of": self.clock.isoformat().replace("+00:00", "Z"),
            "outcomes": {
                **outcomes,
                "parked": len(self.parked),
                "rejected": dict(sorted(self.rejected.items())),
            },
            "channels": {
                name: {
                    "cycles": self._cycles(channel),
                    "lots": self._lots(channel),
                    "reservations": self._reservations(channel),
                    "notices": sorted(channel.notices, key=notice_order),
                }
                for name, channel in sorted(self.channels.items())
            },
        }

    def _cycles(self, channel: Channel) -> list[dict[str, Any]]:
        today, cycles = self.today(channel), []
        for start, end in channel.cycles_up_to(today):
            products = {}
            kinds = channel.kinds(start, end, today)
            for product in METERED:
                totals = channel.pour(product, today).cycles.get(start, {})
                if totals.get("usage") or (product == "pu" and kinds):
                    # "`over_limit` of a cycle is its usage less the limit of its last day (today in
                    # the running one)."
                    limit = channel.limit_on(product, min(end - DAY, today))
                    over = 0 if limit is None else max(0, totals["usage"] - limit)
                    has_price = amount_of(product, 0) is not None
                    written: dict[str, Any] = {
                        "usage": decimal_text(totals["usage"]),
                        **{source: decimal_text(totals[source]) for source in SOURCES},
                        "postpaid_amount": money_text(totals["amount"] if has_price else None),
                        "over_limit": decimal_text(over),
                    }
                    products[product] = written
            if kinds:
                products["pu"]["kinds"] = {
                    kind: {"messages": str(messages), "pu": decimal_text(units)}
                    for kind, (messages, units) in sorted(kinds.items())
                }
            cycles.append(
                {
                    "starts_on": start.isoformat(),
                    "ends_on": (end - DAY).isoformat(),
                    "closed": start < channel.open_from,
                    "products": products,
                }
            )
        return cycles

    def _lots(self, channel: Channel) -> list[dict[str, Any]]:
        today, lots = self.today(channel), []
        for lot in sorted(channel.lots, key=lambda lot: (lot.starts_on, lot.id)):
            pool, windows = 0, []
            if not lot.is_refunded and lot.product not in ENTITLEMENTS:
                filling = channel.pour(lot.product, today).fillings[lot.id]
                pool = filling.pool
                for starts_on, window in zip(filling.window_starts, filling.windows, strict=False):
                    if starts_on <= today:
                        parts = ("own", "carried", "borrowed", "minimum", "lent")
                        written = {part: decimal_text(window[part]) for part in parts}
                        windows.append({"starts_on": starts_on.isoformat(), **written})
            quantity = lot.quantity * THOUSANDTHS
            month_price = amount_of(lot.product, quantity)
            price = month_price
            if month_price is not None and lot.product != "pu":
                # "The graduated price of q, alone, times 12, less the prepaid discount."
                price = month_price * 12 * 3 / 4
            state = "expired" if lot.ends_on < today else "active"
            lots.append(
                {
                    "lot": lot.id,
                    "product": lot.product,
                    "quantity": decimal_text(quantity),
                    "starts_on": lot.starts_on.isoformat(),
                    "ends_on": lot.ends_on.isoformat(),
                    "state": "refunded" if lot.is_refunded else state,
                    "renew": lot.renew.on(max(today, lot.starts_on)),
                    "pool": decimal_text(pool),
                    "month_price": None if lot.product == "pu" else money_text(month_price),
                    "price": money_text(price),
                    "windows": windows,
                }
            )
        return lots

    def _reservations(self, channel: Channel) -> list[dict[str, Any]]:
        today, waiting = self.today(channel), []
        for reservation in channel.reservations:
            if reservation.is_waiting:
                executes_on = reservation.executes_on
                if executes_on is None and channel.status_on(today) == "trial":
                    # "Of a reservation made in a trial it is the end of the trial."
                    executes_on = channel.value("trial_ends_on").on(today)
                day = max(today, reservation.made_on)
                quantity = reservation.quantity.on(day) * THOUSANDTHS
                waiting.append(
                    {
                        "lot": reservation.id,
                        "product": reservation.product,
                        "quantity": decimal_text(quantity),
                        "executes_on": executes_on.isoformat() if executes_on else None,
                        "renew": reservation.renew.on(day),
                    }
                )
        return sorted(waiting, key=lambda one: (one["executes_on"] or "~", one["lot"]))


def notice_order(notice: dict[str, Any]) -> tuple[str, str, str, str]:
    """Notices are in order of day, kind, product, detail."""
    detail = json.dumps(notice["detail"], sort_keys=True)
    return (notice["on"], notice["kind"], notice["product"] or "", detail)


def simulate(lines: list[dict[str, Any]], as_of: str) -> dict[str, Any]:
    """Return the document of `lotmeter simulate --json` for the lines of a scenario."""
    simulation = Simulation()
    for line in lines:
        simulation.take(line)
    until = read_time(as_of)
    if until is None or (simulation.clock is not None and until < simulation.clock):
        raise ValueError(f"--as-of {as_of} is no time, or before the clock")
    simulation.move(until)
    return simulation.document()


def main() -> None:
    """Print the books of one file."""
    file, as_of = sys.argv[1:]
    with Path(file).open(encoding="utf-8") as lines:
        document = simulate([json.loads(line) for line in lines], as_of)
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
