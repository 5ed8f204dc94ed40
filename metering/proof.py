"""The proof of one channel: what is booked of it against its events and commands, counted again."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from datetime import date
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson

from metering.catalog import PRODUCTS
from metering.commands import TYPES
from metering.errors import REFUSAL_REASONS
from metering.events import DIGEST_BYTES, digest_of
from metering.periods import (
    ONE_DAY,
    billing_date_up_to,
    day_of,
    first_instant,
    moment_of,
    window_starts,
)
from metering.prices import quote
from metering.quantities import THOUSAND, quantity_of, quantity_text
from metering.recount import SOURCES, Held, Pour, Setting, Values, crossings, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from metering.catalog import Catalog
    from metering.storage.evidence_store import Evidence

# The time of the values of a registration: before that of any command.
ALWAYS = -(2**63)
THRESHOLDS = ("quota_used", "limit_reached", "lot_low", "borrowing", "postpaid")

TOLD = {
    "Refund": "lot_refunded",
    "Schedule": "reservation_made",
    "ChangeReservation": "reservation_changed",
    "CancelReservation": "reservation_cancelled",
}


def _compare(what: str, booked: Mapping[Any, Any], again: Mapping[Any, Any]) -> Iterator[str]:
    for key in sorted(booked.keys() | again.keys(), key=str):
        if booked.get(key) != again.get(key):
            words = " ".join(str(part) for part in key) if isinstance(key, tuple) else key
            yield f"{what} {words}: booked {booked.get(key)}, counted again {again.get(key)}"


def _content_of(kind: str, at: int, *parts: object) -> bytes:
    texts = ["" if part is None else str(part) for part in (at, *parts)]
    return blake2b("\0".join([TYPES[kind], *texts]).encode(), digest_size=DIGEST_BYTES).digest()


class Proof:
    """One channel, held against its records."""

    def __init__(self, evidence: Evidence, catalog: Catalog) -> None:
        self.catalog, self.found, self.start = catalog, evidence.found, evidence.start
        self.row, self.rows = evidence.row, evidence.rows
        self.zone, self.today = evidence.zone, self.row["settled_on"]
        self.open_from, self.first = self.row["open_from"], self.row["first_cycle_on"]
        self.is_whole = self.start == self.first
        self.values = Values(
            (
                row["name"],
                row["of"],
                Setting(row["at"], row["sequence"], row["on_day"], orjson.loads(row["value"])),
            )
            for row in self.rows["setting"]
        )
        self.cycles = self.values.cycles(self.first, max(self.today, self.open_from))
        self.lots = {row["lot"]: row for row in self.rows["lot"]}
        self.reservations = {row["lot"]: row for row in self.rows["reservation"]}
        self.told: dict[tuple[str, str | None], list[tuple[date, dict[str, Any]]]] = defaultdict(
            list
        )
        for row in self.rows["notice"]:
            self.told[row["kind"], row["product"]].append(
                (row["on_day"], orjson.loads(row["detail"]))
            )
        # What was granted, by kind: instant and lot.
        self.effects: list[tuple[str, int, str]] = []

    def differences(self) -> Iterator[str]:
        """Find everything in which the books are not what the records come to."""
        yield from self.found.strange
        yield from self._commands()
        yield from self._calendar()
        yield from self._lots()
        yield from self._reservations()
        yield from self._notices()
        yield from self._tallies()
        yield from self._pours()

    # Decisions

    def _commands(self) -> Iterator[str]:
        """Hold the commands that were granted against what they did, and the other way round."""
        granted = [
            row for row in self.rows["command"] if row["state"] == "applied" and not row["answer"]
        ]
        asked = Counter((row["kind"], row["at"], row["content"]) for row in granted)
        done = Counter[Any]()
        for kind, at, lot, parts in self._effects(granted):
            done[kind, at, _content_of(kind, at, *parts)] += 1
            self.effects.append((kind, at, lot))
        for kind, at, content in sorted({*asked, *done}):
            if asked[kind, at, content] != done[kind, at, content]:
                when = moment_of(at) if at > ALWAYS else "no time"
                yield (
                    f"{kind} of {when}: {asked[kind, at, content]} commands were granted,"
                    f" {done[kind, at, content]} took effect as they were read"
                )
        for row in self.rows["setting"]:
            on = self._set_on(row)
            of = row["of"] if row["name"] in ("renew", "quantity") else ""
            if row["on_day"] != on or (of and of not in self.lots and of not in self.reservations):
                yield (
                    f"{row['name']} of {row['of']!r} set on {row['on_day']}:"
                    f" it belongs to {on}, or to no lot"
                )

    def _effects(  # noqa: C901, PLR0912 - one branch for each command there is.
        self, granted: list[Any]
    ) -> Iterator[tuple[str, int, str, tuple[Any, ...]]]:
        """Tell what must have been asked for: kind, instant, lot, and what the command said."""
        contents = {row["content"] for row in granted}
        steps: dict[int, list[Any]] = defaultdict(list)
        for row in self.rows["setting"]:
            steps[row["sequence"]].append(row)
        self.steps = len(steps)
        for sequence, rows in sorted(steps.items()):
            at, of = rows[0]["at"], rows[0]["of"]
            said = {row["name"]: orjson.loads(row["value"]) for row in rows}
            plan = (said.get("plan"), said.get("billing_day"), said.get("trial_ends_on"))
            if sequence == 0:
                at = next((row["at"] for row in granted if row["kind"] == "Register"), ALWAYS)
                yield "Register", at, "", (plan[0], self.row["time_zone"], *plan[1:])
            elif len({(row["at"], row["of"]) for row in rows}) > 1:
                yield "Change", ALWAYS, "", ()
            elif of == "":
                yield "Change", at, "", plan
            elif "limit" in said:
                yield "SetLimit", at, "", (of, said["limit"])
            elif sequence == self.reservations.get(of, {"sequence": None})["sequence"]:
                product = self.reservations[of]["product"]
                yield "Schedule", at, of, (of, product, said["quantity"], said["renew"])
            elif sequence == self._bought(of):
                if not self._is_of_clock(of):
                    lot = self.lots[of]
                    units = lot["quota"] // THOUSAND
                    yield "Purchase", at, of, (of, lot["product"], units, said["renew"])
            elif _content_of("SetRenewal", at, of, said.get("renew")) in contents:
                yield "SetRenewal", at, of, (of, said["renew"])
            else:
                yield "ChangeReservation", at, of, (of, said.get("quantity"), said.get("renew"))
        refunded = [name for name, lot in self.lots.items() if lot["is_refunded"]]
        cancelled = [
            name for name, made in self.reservations.items() if made["state"] == "cancelled"
        ]
        for kind, names in (("Refund", refunded), ("CancelReservation", cancelled)):
            for name in names:
                ats = [
                    row["at"]
                    for row in granted
                    if row["content"] == _content_of(kind, row["at"], name)
                ]
                yield kind, ats[0] if ats else ALWAYS, name, (name,)

    def _set_on(self, row: Any) -> date:
        """Tell on which day a value was set: a lot that the clock bought has its flag from its
        first day on, also where the zone left that day out.
        """
        if not row["sequence"]:
            return date.min
        lot = self.lots.get(row["of"]) if row["name"] == "renew" else None
        if lot is not None and self._is_of_clock(row["of"]):
            starts_on: date = lot["starts_on"]
            if row["at"] == first_instant(starts_on, self.zone):
                return starts_on
        return day_of(row["at"], self.zone)

    def _is_of_clock(self, lot: str) -> bool:
        return "~" in lot or lot in self.reservations

    def _bought(self, name: str) -> int | None:
        """Find the step in which a lot came to be; None if there is none."""
        lot = self.lots.get(name)
        if lot is None:
            return None
        made = self.reservations.get(name, {"sequence": 0})["sequence"]
        begins = first_instant(lot["starts_on"], self.zone)
        return min(
            (
                row["sequence"]
                for row in self.rows["setting"]
                if (row["name"], row["of"], row["on_day"]) == ("renew", name, lot["starts_on"])
                and row["sequence"] > made
                and (row["at"] == begins or not self._is_of_clock(name))
            ),
            default=None,
        )

    def _calendar(self) -> Iterator[str]:
        """Hold the row of the channel and its closed cycles against the values that were set."""
        registered_on = day_of(
            next(at for kind, at, _ in self.effects if kind == "Register"), self.zone
        )
        refunds = sum(kind == "Refund" for kind, *_ in self.effects)
        following = next((start for start in self.cycles if start > self.open_from), date.max)
        again = {
            "registered_on": registered_on,
            "first_cycle_on": billing_date_up_to(
                registered_on, self.values.on("billing_day", date.min)
            ),
            "open_from": self.open_from if self.open_from in self.cycles else None,
            "closes_at": first_instant(following, self.zone) + self.catalog.rules.closing,
            "sequence": self.steps - 1 + refunds,
        }
        yield from _compare("its", {key: self.row[key] for key in again}, again)
        due_on = min(self._days_ahead(), default=None)
        due_at = self.row["due_at"]
        if due_at is not None and (
            day_of(due_at - 1, self.zone) < self.today
            or day_of(due_at - 1, self.zone) == day_of(due_at, self.zone)
        ):
            yield f"it is due at {due_at}: no day begins then that follows {self.today}"
        if due_on is not None and (due_at is None or due_at > first_instant(due_on, self.zone)):
            yield f"something happens on {due_on}, and it is due at {due_at}"
        closed = {
            (start,): following - ONE_DAY
            for start, following in pairwise(self.cycles)
            if start < self.open_from
        }
        yield from _compare(
            "closed cycle",
            {(row["starts_on"],): row["ends_on"] for row in self.rows["cycle"]},
            closed,
        )
        for product, on, late_on in sorted(self.found.late):
            if late_on not in self.cycles:
                yield f"{product} of {on}: it counts on {late_on}, when no cycle begins"
        late = {(product, on) for product, on, _ in self.found.late}
        for row in self.rows["late"]:
            if self.is_whole and (row["product"], row["original_on"]) not in late:
                yield f"{row['product']} of {row['original_on']}: entered as late, and was not"

    def _days_ahead(self) -> Iterator[date]:
        """List days that are known to bring something."""
        days = [held.starts for held in self._held()]
        days.append(tuple(key[1] for key in (*self.found.counted, *self.found.readings())))
        days.append(tuple(filter(None, (
            made["executes_on"] for made in self.reservations.values() if made["state"] == "waiting"
        ))))  # fmt: skip
        yield from (day for each in days for day in each if day > self.today)

    def _lots(self) -> Iterator[str]:
        """Hold each lot against where it comes from."""
        for name, lot in self.lots.items():
            starts = window_starts(lot["starts_on"])
            product, quota, flag = PRODUCTS[lot["product"]], lot["quota"], True
            if "~" in name:
                base, number = name.split("~")
                source = self.lots[base if number == "2" else f"{base}~{int(number) - 1}"]
                comes = (source["product"], source["quota"], source["ends_on"] + ONE_DAY)
                flag = not source["is_refunded"] and self.values.on(
                    "renew", source["ends_on"], source["lot"]
                )
            elif name in self.reservations:
                made = self.reservations[name]
                units = self.values.on("quantity", lot["starts_on"], name)
                comes = (
                    made["product"],
                    quantity_of(units),
                    made["executes_on"] or lot["starts_on"],
                )
                flag = made["state"] == "executed" and lot["starts_on"] >= made["made_on"]
            else:
                comes = (product.name, quota, lot["starts_on"])
            if (
                (product.name, quota, lot["starts_on"]) != comes
                or not flag
                or self._bought(name) is None
            ):
                yield (
                    f"lot {name} of {quota} {product.name} from {lot['starts_on']}:"
                    f" nobody bought it; its source says {comes}"
                )
            price = quote(self.catalog, product, quota, on=lot["starts_on"])
            is_over = not lot["is_refunded"] and starts[-1] <= self.today
            again = {
                "ends_on": starts[-1] - ONE_DAY,
                "month_price": price.month,
                "price": price.total,
                "has_started": lot["has_started"]
                if lot["is_refunded"]
                else starts[0] <= self.today,
                "has_ended": is_over,
            }
            yield from _compare(f"lot {name},", {key: lot[key] for key in again}, again)
        windows = {
            (held.name, number): (start, held.quota, held.most)
            for held in self._held(with_refunded=True)
            for number, start in enumerate(held.starts[:-1])
        }
        booked = {
            (row["lot"], row["number"]): (row["starts_on"], row["quota"], row["maximum"])
            for row in self.rows["lot_window"]
        }
        # Those on which nothing was ever booked have no row.
        windows = {key: window for key, window in windows.items() if key in booked}
        yield from _compare("first day, quota and maximum of window", booked, windows)

    def _held(self, *, with_refunded: bool = False) -> list[Held]:
        """List the lots that hold something."""
        held = []
        for name, lot in self.lots.items():
            product, starts = PRODUCTS[lot["product"]], window_starts(lot["starts_on"])
            if product.is_metered and (with_refunded or not lot["is_refunded"]):
                ends = starts if product.is_windowed else (starts[0], starts[-1])
                held.append(Held(name, product.name, lot["quota"], ends))
        return held

    def _reservations(self) -> Iterator[str]:
        """Hold each reservation against the day it was made, and the day it was to buy."""
        made_on = {
            lot: day_of(at, self.zone) for kind, at, lot in self.effects if kind == "Schedule"
        }
        for name, made in self.reservations.items():
            on, sequence = made["made_on"], made["sequence"]
            executes_on = None
            if self.values.plan_on(on, before=sequence) != "trial":
                executes_on = self.values.cycles(self.first, on, before=sequence)[-1]
            waits = {"trial"} if made["product"] == "pu" else {"trial", "free"}
            days = (on + number * ONE_DAY for number in range((self.today - on).days + 1))
            if executes_on is None:
                is_due = any(self.values.plan_on(day) not in waits for day in days)
            else:
                is_due = executes_on <= self.today
            again = {
                "made_on": made_on.get(name),
                "executes_on": executes_on,
                "state": "executed" if name in self.lots else made["state"],
            }
            yield from _compare(f"reservation {name},", {key: made[key] for key in again}, again)
            if (made["state"] == "executed" and name not in self.lots) or (
                made["state"] == "waiting" and is_due
            ):
                yield (
                    f"reservation {name} of {on} is {made['state']}:"
                    f" it was to buy, due {executes_on}"
                )

    # Notices

    def _notices(self) -> Iterator[str]:  # noqa: C901, PLR0912 - one branch for each kind.
        """Hold the notices of what was decided against the decisions."""
        booked, again = Counter[Any](), Counter[Any]()
        for (kind, product), told in self.told.items():
            if kind not in THRESHOLDS:
                for told_on, detail in told:
                    on: date | None = told_on
                    if kind == "command_refused":
                        booked[kind, None, on, detail["reason"]] += 1
                    else:
                        ahead = (
                            detail.pop("days") * ONE_DAY if kind == "lot_expiring" else 0 * ONE_DAY
                        )
                        reason = detail.pop("reason", None)
                        assert (reason in REFUSAL_REASONS) == kind.endswith("_refused")
                        assert detail.keys() == {"lot"}
                        made = self.reservations.get(detail["lot"], {"executes_on": on})
                        if kind == "reservation_refused" and made["executes_on"] is None:
                            on = None
                        booked[
                            kind, product, None if on is None else on + ahead, detail["lot"]
                        ] += 1
        for row in self.rows["command"]:
            if row["answer"]:
                again["command_refused", None, day_of(row["at"], self.zone), row["answer"]] += 1
        for kind, at, name in self.effects:
            if kind in TOLD:
                of = (self.lots if kind == "Refund" else self.reservations)[name]
                again[TOLD[kind], of["product"], day_of(at, self.zone), name] += 1
        for name, lot in self.lots.items():
            product, starts_on, expires_on = (
                lot["product"],
                lot["starts_on"],
                lot["ends_on"] + ONE_DAY,
            )
            base, _, number = name.partition("~")
            following = f"{base}~{int(number or 1) + 1}"
            again["lot_started", product, starts_on, name] += lot["has_started"]
            again["lot_expired", product, expires_on, name] += lot["has_ended"]
            again["lot_expiring", product, lot["ends_on"], name] += lot["expiring_told"]
            again["lot_renewed", product, starts_on, name] += bool(number)
            again["reservation_executed", product, starts_on, name] += name in self.reservations
            is_refused = lot["has_ended"] and following not in self.lots
            if is_refused and self.values.on("renew", lot["ends_on"], name):
                again["renewal_refused", product, expires_on, following] += 1
        for name, made in self.reservations.items():
            is_refused = made["state"] == "refused"
            again["reservation_refused", made["product"], made["executes_on"], name] += is_refused
        yield from _compare("notices", +booked, +again)

    # Usage

    def _tallies(self) -> Iterator[str]:
        """Hold the tallies and levels against the events."""
        tallies = {
            (row["product"], row["on_day"], row["kind"]): [row["quantity"], row["messages"]]
            for row in self.rows["tally"]
        }
        yield from _compare("tally", tallies, self.found.counted)
        readings = {
            (row["product"], row["on_day"], row["person"].hex()): (
                row["peak"],
                row["last_at"],
                row["last_level"],
            )
            for row in self.rows["reading"]
        }
        yield from _compare("peak and latest level", readings, self.found.readings())
        self.base = {} if self.is_whole else {
            (row["product"], row["person"]): (row["at"], row["level"]) for row in self.rows["base"]
        }  # fmt: skip
        again = self.found.levels(self.open_from)
        for (product, person), report in self.base.items():
            key = (product, person.hex())
            again[key] = max(again.get(key, report), report)
        levels = {
            (row["product"], row["person"].hex()): (row["at"], row["level"])
            for row in self.rows["level"]
        }
        yield from _compare("level in force", levels, again)

    def _pours(self) -> Iterator[str]:
        """Hold the fills, closed cycles and thresholds against usage that is poured again."""
        booked = {
            tuple(
                row[name]
                for name in ("product", "on_day", "source", "lot", "window_number", "quota_number")
            ): row["quantity"]
            for row in self.rows["fill"] if row["quantity"]
        }  # fmt: skip
        again: dict[Any, int] = {}
        documents: dict[Any, Any] = {}
        products = {key[0] for key in (*booked, *self.base)} | self.found.products()
        for product in sorted(products | {held.product for held in self._held()}):
            pour = self._pour(product)
            again.update(((product, *key), quantity) for key, quantity in pour.fills.items())
            yield from self._thresholds(product, pour)
            fills, counted = self._by_cycle(product, pour)
            for start, following in pairwise(self.cycles):
                if self.start <= start < self.open_from:
                    document = written(
                        self.catalog,
                        self.values,
                        product,
                        (start, following - ONE_DAY),
                        fills=fills[start],
                        counted=counted[start],
                    )
                    if document is not None:
                        documents[start, product] = document
        yield from _compare("what is poured of", booked, again)
        yield from self._closed(documents)

    def _by_cycle(
        self, product: str, pour: Pour
    ) -> tuple[dict[date, dict[Any, int]], dict[date, dict[Any, list[int]]]]:
        """Part what was poured and counted of a product by cycles, named by their first days."""
        fills: dict[date, dict[Any, int]] = defaultdict(dict)
        counted: dict[date, dict[Any, list[int]]] = defaultdict(dict)
        for key, quantity in pour.fills.items():
            fills[self._cycle_of(key[0])][key] = quantity
        for (name, day, kind), sums in self.found.counted.items():
            if name == product:
                counted[self._cycle_of(day)][day, kind] = sums
        return fills, counted

    def _cycle_of(self, day: date) -> date:
        return self.cycles[max(0, bisect_right(self.cycles, day) - 1)]

    def _pour(self, product: str) -> Pour:
        lots = [
            held
            for held in self._held()
            if held.product == product and held.starts[-1] >= self.start
        ]
        left, given = Counter[Any](), Counter[Any]()
        for held in lots:
            left.update({(held.name, quota): held.quota for quota in range(len(held.starts) - 1)})
        if not self.is_whole:
            # What was given before is all that was given, less what is booked from the start on.
            for row in self.rows["lot_window"]:
                left[row["lot"], row["number"]] -= row["taken"]
                given[row["lot"], row["number"]] += row["own"] + row["carried"] + row["borrowed"]
            for row in self.rows["fill"]:
                left[row["lot"], row["quota_number"]] += row["quantity"]
                if row["source"] != "minimum":
                    given[row["lot"], row["window_number"]] -= row["quantity"]
        usage = self.found.usage(
            product, [day for day in self.cycles if day >= self.start], self.base
        )
        pour = Pour(self.start, lots, left, given)
        for day in self._days_of_change(lots, usage):
            included = self.catalog.allowance(self.values.plan_on(day), product).included
            pour.pour(day, usage[day], included, is_first=day in self.cycles)
        return pour

    def _days_of_change(self, lots: list[Held], usage: Mapping[date, int]) -> list[date]:
        """List the days on which anything can be otherwise than on the day before."""
        days = {self.today, self.open_from - ONE_DAY, *usage, *self.cycles}
        for held in lots:
            days.update(held.starts)
        for row in self.rows["setting"]:
            days.add(row["on_day"])
            if row["name"] == "trial_ends_on" and (ends_on := orjson.loads(row["value"])):
                days.add(date.fromisoformat(ends_on))
        return sorted(day for day in days if self.start <= day <= self.today)

    def _thresholds(self, product: str, pour: Pour) -> Iterator[str]:
        """Find what was crossed and never told. What was told may since have been undone."""
        days = [day for day in pour.days if day.on >= self.open_from - ONE_DAY]
        limits = {day.on: self.values.limit_on(self.catalog, product, day.on) for day in days}
        for kind, percent, on in crossings(days, limits, self.catalog, product):
            told = self.told[kind, product]
            if not any(told_on >= on and detail["percent"] == percent for told_on, detail in told):
                yield f"{product} on {on}: {kind} of {percent} % was not told"
        borrowed = {key[2:4] for key in pour.fills if key[1] == "borrowed"}
        for name, number in sorted(borrowed):
            window = window_starts(self.lots[name]["starts_on"])[number].isoformat()
            if {"lot": name, "window": window} not in [
                detail for _, detail in self.told["borrowing", product]
            ]:
                yield f"{product}: borrowing of lot {name} in the window of {window} was not told"
        for start, following in pairwise(self.cycles):
            if any(
                start <= key[0] < following for key in pour.fills if key[1] == "postpaid"
            ) and not any(start <= on < following for on, _ in self.told["postpaid", product]):
                yield f"{product}: postpaid usage in the cycle of {start} was not told"

    def _closed(self, documents: dict[Any, Any]) -> Iterator[str]:
        """Hold what closed cycles say against their digest, their sums and, in full, all."""
        sums, said, told = {}, {}, {}
        for row in self.rows["cycle"]:
            start, document = row["starts_on"], orjson.loads(row["document"])
            if row["digest"] != digest_of(self.row["channel"], row["document"]):
                yield f"cycle {start}: its document is not the one that was digested"
            head = {
                "starts_on": start.isoformat(),
                "ends_on": row["ends_on"].isoformat(),
                "closed": True,
            }
            if {**document, "products": 0} != {**head, "products": 0}:
                yield f"cycle {start}: its document says {document} of {head}"
            for product, sources in document["products"].items():
                if start >= self.start:
                    told[start, product] = sources
                for source in SOURCES:
                    if sources[source] != "0":
                        said[start, product, source] = sources[source]
        for row in self.rows["sums"]:
            if row["source"] in SOURCES and row["quantity"]:
                sums[row["starts_on"], row["product"], row["source"]] = quantity_text(
                    row["quantity"]
                )
        yield from _compare("entries of the cycle", sums, said)
        yield from _compare("closed cycle", told, documents)
