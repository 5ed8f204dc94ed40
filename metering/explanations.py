"""From an event to the entries it caused, and from an entry to the events behind it.

A batch is one settlement: all events of a product in it are poured together, so entries belong to
all of them. What is said of one event is therefore: these entries, with so many other events.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

from metering.catalog import PRODUCTS
from metering.commands import TYPES
from metering.events import digest_of
from metering.periods import ONE_DAY, add_months, day_of, first_instant, moment_of
from metering.quantities import quantity_text
from metering.storage import explanation_store
from metering.storage.database import driver_of
from metering.storage.event_store import VOID_CODE, month_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from metering.storage.explanation_store import Snapshot

Document = dict[str, Any]

# Events that are listed; all are counted.
EVENTS_MAX = 20

# After every day that an event can have.
LAST_DAY = date(9998, 1, 1)

NAMES = dict(enumerate(PRODUCTS, start=1))
CODES = {name: code for code, name in NAMES.items()}
STATES = ("applied", "parked", "voided")

USED_FROM = ("included", "own", "carried", "borrowed", "postpaid")


_OF_A_SETTLEMENT = ("booked_at", "batch", "events_in_all", "events_that_had_waited")


class NotInTheBooks(LookupError):
    """There is nothing to explain; the message says what to do."""


async def explain_record(engine: AsyncEngine, channel: str, source: str, name: str) -> Document:
    """Explain an event or a command. Raises NotInTheBooks."""
    async with _one_moment(engine, channel) as explaining:
        document = await explaining.record(digest_of(channel, source, name))
    return {"channel": channel, "source": source, "id": name, **document}


async def explain_entry(engine: AsyncEngine, channel: str, number: int) -> Document:
    """Explain an entry of the ledger. Raises NotInTheBooks."""
    async with _one_moment(engine, channel) as explaining:
        return {"channel": channel, **await explaining.entry(number)}


@asynccontextmanager
async def _one_moment(engine: AsyncEngine, channel: str) -> AsyncIterator[_Explaining]:
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="REPEATABLE READ")
        async with connection.begin():
            yield _Explaining(await driver_of(connection), channel)


class _Explaining:
    """One channel in one snapshot."""

    def __init__(self, driver: Any, channel: str) -> None:
        self._books: Snapshot = explanation_store.Snapshot(driver, channel)
        self._zone = "UTC"

    async def record(self, digest: bytes) -> Document:
        """Explain whatever has an identity."""
        await self._look_at_channel()
        event = await self._books.event(digest)
        if event is not None:
            return await self._event(digest, event)
        command = await self._books.command(digest)
        if command is not None:
            return await self._command(digest, command)
        raise NotInTheBooks(
            "no event or command of this channel has this source and id: it was not read yet, or"
            " it was rejected (see lotmeter dead-letters), or its record is no longer kept"
        )

    async def entry(self, number: int) -> Document:
        """Explain an entry by what was settled with it."""
        await self._look_at_channel()
        row = await self._books.entry(number)
        if row is None:
            raise NotInTheBooks(f"the ledger of this channel has no entry {number}")
        stretches = await self._books.batch_at(row["booked_at"])
        # Usage of a day can move what later days were poured from, never the other way round.
        settlement = await self._settlement(
            row["booked_at"], stretches, row["product"], through=row["on_day"]
        )
        return {
            "explains": "entry",
            "entry": self._entry(row),
            "settled_by": "batch" if stretches else "clock",
            **{key: settlement[key] for key in _OF_A_SETTLEMENT},
            "events": settlement["events"],
            "day": await self._day(row["product"], row["on_day"]),
        }

    async def _look_at_channel(self) -> None:
        row = await self._books.channel()
        if row is None:
            raise NotInTheBooks("no record of this channel was ever read")
        self._zone = row["time_zone"] or "UTC"

    async def _event(self, digest: bytes, row: Any) -> Document:
        state = STATES[row["state"]]
        document = {
            "explains": "event",
            "record": _place(row),
            "batch": _stretch(await self._books.batch_of(row["position"], row["read_at_offset"])),
            "state": state,
            **self._content(row),
            "waits_for": None,
            "taken_back": None,
            "settlements": [],
            "day": None,
        }
        if state == "parked":
            waits_for = await self._books.is_waiting_for(digest)
            document["waits_for"] = "channel" if waits_for is None else "event"
            return document
        counted = row
        if row["product"] == VOID_CODE:
            counted = await self._books.event(row["person"])
            document["takes_back"] = None if counted is None else _place(counted)
        if counted is None:
            return document
        product = NAMES[counted["product"]]
        moments = [await self._taken_in_at(row)]
        if state == "voided":
            void = await self._books.void_of(digest)
            if void is not None:
                document["taken_back"] = _place(void)
                moments.append(await self._taken_in_at(void))
        for moment in moments:
            if moment is not None:
                stretches = await self._books.batch_at(moment)
                settlement = await self._settlement(moment, stretches, product, through=LAST_DAY)
                settlement["entries"] = [
                    self._entry(entry)
                    for entry in await self._books.entries_at(moment)
                    if entry["product"] == product and entry["on_day"] >= self._counts_on(counted)
                ]
                del settlement["events"]
                document["settlements"].append(settlement)
        document["day"] = await self._day(product, self._counts_on(counted))
        return document

    async def _command(self, digest: bytes, row: Any) -> Document:
        batch = await self._books.batch_of(row["position"], row["read_at_offset"])
        document: Document = {
            "explains": "command",
            "record": _place(row),
            "batch": _stretch(batch),
            "state": row["state"],
            "command": TYPES[row["kind"]],
            "time": _time(row["at"]),
            "refused": row["answer"],
            "waits_for": None,
            "settlements": [],
        }
        if row["state"] == "parked":
            waits_for = await self._books.is_waiting_for(digest)
            document["waits_for"] = "channel" if waits_for is None else "event"
            return document
        moment = await self._taken_in_at(row)
        if moment is not None:
            stretches = await self._books.batch_at(moment)
            entries = [self._entry(entry) for entry in await self._books.entries_at(moment)]
            document["settlements"] = [
                {
                    "booked_at": moment.isoformat(),
                    "batch": _stretches(stretches),
                    "entries": entries,
                }
            ]
        return document

    async def _taken_in_at(self, row: Any) -> datetime | None:
        """Tell the transaction in which a record was counted: it may have waited since its own.

        What came before the registration was taken up with it, a void that came before its event
        with that. None where the account of its offset is no longer kept.
        """
        own = await self._books.batch_of(row["position"], row["read_at_offset"])
        if own is None:
            return None
        moments: list[datetime] = [own["committed_at"]]
        registration = await self._books.registration()
        if registration is not None:
            batch = await self._books.batch_of(
                registration["position"], registration["read_at_offset"]
            )
            if batch is not None:
                moments.append(batch["committed_at"])
        if row.get("product") == VOID_CODE:
            target = await self._books.event(row["person"])
            if target is not None and target["product"] != VOID_CODE:
                moments += filter(None, [await self._taken_in_at(target)])
        return max(moments)

    async def _settlement(
        self, booked_at: datetime, stretches: Sequence[Any], product: str, *, through: date
    ) -> Document:
        rows = await self._books.events_in(
            CODES[product],
            stretches,
            through=through,
            before=first_instant(through + ONE_DAY, self._zone),
            events_max=EVENTS_MAX,
        )
        return {
            "booked_at": booked_at.isoformat(),
            "batch": _stretches(stretches),
            "product": product,
            "events_in_all": rows[0]["events"] if rows else 0,
            "events_that_had_waited": await self._waited(booked_at, stretches, product),
            "events": [
                {"record": _place(row), "state": STATES[row["state"]], **self._content(row)}
                for row in rows
            ],
        }

    async def _waited(self, booked_at: datetime, stretches: Sequence[Any], product: str) -> int:
        """Count the events that had waited for the channel, if these stretches registered it."""
        registration = await self._books.registration()
        is_here = registration is not None and any(
            row["position"] == registration["position"]
            and row["from_offset"] <= registration["read_at_offset"] < row["to_offset"]
            for row in stretches
        )
        return await self._books.events_before(CODES[product], booked_at) if is_here else 0

    async def _day(self, product: str, day: date) -> Document:
        """Say where the usage of a day stands now."""
        following = day + ONE_DAY
        begins, ends = first_instant(day, self._zone), first_instant(following, self._zone)
        fills = await self._books.fills(product, day)
        used = sum(row["quantity"] for row in fills if row["source"] in USED_FROM)
        return {
            "on": day.isoformat(),
            "product": product,
            "usage": quantity_text(used),
            # A late event is older than its day, but by no more than the horizon.
            "events": await self._books.events_of_day(
                CODES[product],
                day,
                months=(month_of(begins) - 3, month_of(ends)),
                instants=(begins, ends),
            ),
            "booked": [
                {
                    "source": row["source"],
                    "lot": row["lot"] or None,
                    "quantity": quantity_text(row["quantity"]),
                }
                for row in fills
            ],
        }

    def _content(self, row: Any) -> Document:
        product = NAMES.get(row["product"])
        is_void = row["product"] == VOID_CODE
        on = day_of(row["at"], self._zone)
        return {
            "type": "void" if is_void else PRODUCTS[str(product)].adds_up,
            "time": _time(row["at"]),
            "product": product,
            "kind": row["kind"],
            "quantity": None if is_void else quantity_text(row["quantity"]),
            "messages": row["messages"] or None,
            "day": on.isoformat(),
            "counts_on": None if is_void else self._counts_on(row).isoformat(),
            "is_late": row["counts_on"] is not None,
        }

    def _counts_on(self, row: Any) -> date:
        found: date = row["counts_on"] or day_of(row["at"], self._zone)
        return found

    def _entry(self, row: Any) -> Document:
        starts_on = row["starts_on"]

        def window(number: int) -> str | None:
            is_one = starts_on is not None and number >= 0
            return add_months(starts_on, number).isoformat() if is_one else None

        return {
            "number": row["number"],
            "on": row["on_day"].isoformat(),
            "product": row["product"],
            "source": row["source"],
            "lot": row["lot"] or None,
            "window": window(row["window_number"]),
            "quota_of": window(row["quota_number"]),
            "quantity": quantity_text(row["quantity"]),
            "original_on": row["original_on"] and row["original_on"].isoformat(),
            "after_record": None if row["position"] is None else _place(row),
        }


def _place(row: Any) -> Document:
    return {
        "topic": row["topic"],
        "partition": row["topic_partition"],
        "offset": row["read_at_offset"],
    }


def _stretch(row: Any) -> Document | None:
    if row is None:
        return None
    return {
        "from_offset": row["from_offset"],
        "to_offset": row["to_offset"] - 1,
        "committed_at": row["committed_at"].isoformat(),
    }


def _stretches(rows: Iterable[Any]) -> list[Document]:
    return [
        {
            "topic": row["topic"],
            "partition": row["topic_partition"],
            "from_offset": row["from_offset"],
            "to_offset": row["to_offset"] - 1,
        }
        for row in rows
    ]


def _time(at: int) -> str:
    return moment_of(at).isoformat().replace("+00:00", "Z")
