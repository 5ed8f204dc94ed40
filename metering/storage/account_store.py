"""Accounts: everything that is open of a channel, loaded whole, written back where it changed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import orjson

from metering.accounts import (
    NOTHING,
    UNKNOWN,
    Account,
    DayPour,
    FillKey,
    Reservation,
    Setting,
    Unsaved,
)
from metering.catalog import PRODUCTS
from metering.lots import NO_WINDOWS, UNTOUCHED, Lot, Window, quotas_of
from metering.storage import database
from metering.storage.tables import level, lot, lot_window, reading, reservation, setting, tally
from metering.tallies import Counts, Person, PersonDay, Readings, Report, Sum

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import date

    from metering.catalog import Catalog

_REMEMBER = """
INSERT INTO channel (channel) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING
"""
_LOCK = """
SELECT channel, version, sequence, time_zone IS NOT NULL AS is_registered FROM channel
WHERE channel = ANY ($1) ORDER BY channel FOR UPDATE
"""
# Whoever looks at the same time looks past what is locked here; and as nobody is waited for, the
# order of the locks does not matter.
_LOCK_DUE = """
WITH due AS (
    SELECT channel, version, time_zone FROM channel
    WHERE due_at <= $1 ORDER BY due_at LIMIT $4 FOR UPDATE SKIP LOCKED
), closing AS (
    SELECT channel, version, time_zone FROM channel
    WHERE closes_at <= $2 ORDER BY closes_at LIMIT $4 FOR UPDATE SKIP LOCKED
), overdue AS (
    SELECT channel, version, time_zone FROM channel
    WHERE channel IN (SELECT channel FROM parked WHERE at < $3 ORDER BY at LIMIT 10 * $4)
    LIMIT $4 FOR UPDATE SKIP LOCKED
)
SELECT channel, version, time_zone IS NOT NULL AS is_registered
FROM (TABLE due UNION TABLE closing UNION TABLE overdue) AS found ORDER BY channel
"""
_OPEN = """
SELECT t.* FROM unnest($1::text[], $2::date[]) AS wanted (channel, open_from)
JOIN {table} t ON t.channel = wanted.channel AND t.on_day >= wanted.open_from
"""
_ALL = "SELECT * FROM {table} WHERE channel = ANY ($1)"
# A month of a lot has a row once something was booked on it.
_WINDOWS = """
SELECT channel, lot, number, own, carried, borrowed, minimum, lent, taken FROM lot_window
WHERE channel = ANY ($1) AND own + carried + borrowed + minimum + lent + taken > 0
"""
_TOLD = """
SELECT n.channel, n.kind, n.product, n.on_day, n.detail
FROM unnest($1::text[], $2::date[]) AS wanted (channel, open_from)
JOIN notice n ON n.channel = wanted.channel AND n.on_day >= wanted.open_from - 31
WHERE n.kind IN ('quota_used', 'limit_reached', 'lot_low', 'borrowing', 'postpaid')
ORDER BY n.number
"""
_SAVE = """
UPDATE channel SET
    version = s.version, time_zone = s.time_zone, registered_on = s.registered_on,
    first_cycle_on = s.first_cycle_on, open_from = s.open_from, settled_on = s.settled_on,
    sequence = s.sequence, entries = s.entries, notices = s.notices, due_at = s.due_at,
    closes_at = s.closes_at
FROM unnest(
    $1::text[], $2::bigint[], $3::text[], $4::date[], $5::date[], $6::date[], $7::date[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]
) AS s (
    channel, version, time_zone, registered_on, first_cycle_on, open_from, settled_on, sequence,
    entries, notices, due_at, closes_at
) WHERE channel.channel = s.channel
"""


async def lock(
    driver: Any, channels: Collection[str], *, unknown: Collection[str]
) -> tuple[dict[str, int], int]:
    """Lock channels until the transaction ends; returns the versions of those that are registered,
    and how many commands they had in all.

    A channel that nobody saw before gets a row first: a registration and an event in two
    transactions would miss each other otherwise. Rows are locked in one fixed order, so that two
    batches queue instead of deadlocking.
    """
    if unknown:
        await driver.execute(_REMEMBER, sorted(unknown))
    rows = await driver.fetch(_LOCK, sorted(channels))
    versions = {row["channel"]: row["version"] for row in rows if row["is_registered"]}
    return versions, sum([row["sequence"] for row in rows if row["is_registered"]])


async def lock_due(
    driver: Any,
    *,
    now: int,
    closing_clock: int | None,
    parked_before: int,
    channels_max: int,
) -> tuple[list[str], dict[str, int]]:
    """Lock channels to which something is due that nobody else works on, and tell the versions of
    the registered.
    """
    rows = await driver.fetch(_LOCK_DUE, now, closing_clock, parked_before, channels_max)
    names = [row["channel"] for row in rows]
    return names, {row["channel"]: row["version"] for row in rows if row["is_registered"]}


async def load(driver: Any, channels: Collection[str]) -> dict[str, Account]:
    """Load registered channels with all that is open of them."""
    wanted = sorted(channels)
    if not wanted:
        return {}
    accounts = {
        row["channel"]: _account(row)
        for row in await driver.fetch(_ALL.format(table="channel"), wanted)
    }
    await _load_lots(driver, wanted, accounts)
    await _load_tallies(driver, wanted, accounts)
    await _load_booked(driver, accounts)
    for account in accounts.values():
        _as_poured(account)
        account.unsaved = Unsaved()
    return accounts


async def _load_lots(driver: Any, wanted: Sequence[str], accounts: Mapping[str, Account]) -> None:
    """Load what was decided: values, lots, reservations."""
    for row in await driver.fetch(_ALL.format(table="setting"), wanted):
        value = Setting(row["at"], row["sequence"], row["on_day"], orjson.loads(row["value"]))
        accounts[row["channel"]].set_value(row["name"], row["of"], value)
    windows: dict[tuple[str, str], dict[int, Window]] = defaultdict(dict)
    for row in await driver.fetch(_WINDOWS, wanted):
        windows[row["channel"], row["lot"]][row["number"]] = _window(row)
    for row in await driver.fetch(_ALL.format(table="lot"), wanted):
        accounts[row["channel"]].lots[row["lot"]] = _lot(row, windows[row["channel"], row["lot"]])
    for row in await driver.fetch(_ALL.format(table="reservation"), wanted):
        accounts[row["channel"]].reservations[row["lot"]] = Reservation(
            row["lot"],
            row["product"],
            row["made_on"],
            row["sequence"],
            row["executes_on"],
            row["state"],
        )


async def _load_tallies(
    driver: Any, wanted: Sequence[str], accounts: Mapping[str, Account]
) -> None:
    """Load what was used on the open days, and the levels before them."""
    starts = _starts(accounts)
    for row in await driver.fetch(_OPEN.format(table="tally"), *starts):
        counts = _tallies(accounts[row["channel"]], row["product"])
        assert isinstance(counts, Counts)
        counts.put(row["on_day"], row["kind"], Sum(row["quantity"], row["messages"]))
    for row in await driver.fetch(_ALL.format(table="level"), wanted):
        readings = _tallies(accounts[row["channel"]], row["product"])
        assert isinstance(readings, Readings)
        readings.persons[row["person"]] = Person(Report(row["at"], row["level"]))
    for row in await driver.fetch(_OPEN.format(table="reading"), *starts):
        readings = _tallies(accounts[row["channel"]], row["product"])
        assert isinstance(readings, Readings)
        person = readings.persons.setdefault(row["person"], Person())
        last_at = row["last_at"]
        last = None if last_at is None else Report(last_at, row["last_level"])
        person.days[row["on_day"]] = PersonDay(row["peak"], last)


async def _load_booked(driver: Any, accounts: Mapping[str, Account]) -> None:
    """Load what is booked on the open days, and what was told of it."""
    starts = _starts(accounts)
    for row in await driver.fetch(_OPEN.format(table="fill"), *starts):
        if row["quantity"]:
            _booked_day(accounts[row["channel"]], row["product"], row["on_day"]).fills[
                FillKey(row["source"], row["lot"], row["window_number"], row["quota_number"])
            ] = row["quantity"]
    for row in await driver.fetch(_TOLD, *starts):
        _remember_notice(accounts[row["channel"]], row)


def _starts(accounts: Mapping[str, Account]) -> tuple[list[str], list[date]]:
    return list(accounts), [account.open_from for account in accounts.values()]


def _account(row: Any) -> Account:
    return Account(
        row["channel"],
        row["time_zone"],
        row["registered_on"],
        row["first_cycle_on"],
        row["open_from"],
        row["sequence"],
        row["version"],
        row["entries"],
        row["notices"],
        row["due_at"],
        is_due_known=True,
        settled_on=row["settled_on"],
    )


def _window(row: Any) -> Window:
    return Window(
        row["own"], row["carried"], row["borrowed"], row["minimum"], row["lent"], row["taken"]
    )


def _lot(row: Any, booked: Mapping[int, Window]) -> Lot:
    product = PRODUCTS[row["product"]]
    windows = [UNTOUCHED] * quotas_of(product)
    for number, window in booked.items():
        windows[number] = window
    return Lot(
        row["lot"],
        product,
        row["quota"],
        row["starts_on"],
        row["month_price"],
        row["price"],
        row["is_refunded"],
        row["has_started"],
        row["has_ended"],
        row["expiring_told"],
        row["expired"],
        windows,
    )


def _tallies(account: Account, product: str) -> Counts | Readings:
    return account.books_of(product).tallies


def _booked_day(account: Account, product: str, on: date) -> DayPour:
    days = account.books_of(product).days
    if on not in days:
        days[on] = DayPour(on, account.cycle_on(on), {}, UNKNOWN, UNKNOWN, 0, 0)
    return days[on]


def _remember_notice(account: Account, row: Any) -> None:
    kind, product, on = row["kind"], row["product"], row["on_day"]
    detail = orjson.loads(row["detail"])
    key: tuple[object, ...]
    if kind == "borrowing":
        key = (kind, product, detail["lot"], detail["window"])
    elif kind == "postpaid":
        if on < account.open_from:
            return
        key = (kind, product, account.cycle_on(on))
    else:
        key = (kind, product, detail["percent"])
    account.told.setdefault(key, []).append(on)


def _as_poured(account: Account) -> None:
    """Take the books as they were left: poured, with nothing more to look for."""
    for name in {held.product.name for held in account.lots.values() if held.product.is_metered}:
        account.books_of(name)
    for books in account.books.values():
        books.dirty_from, books.poured_through = None, account.settled_on


class Changes:
    """What changed of some locked accounts, as rows of their tables to be written at once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._channels: list[tuple[object, ...]] = []
        self._settings: list[tuple[object, ...]] = []
        self._lots: list[tuple[object, ...]] = []
        self._windows: list[tuple[object, ...]] = []
        self._reservations: list[tuple[object, ...]] = []
        self._tallies: list[tuple[object, ...]] = []
        self._readings: list[tuple[object, ...]] = []
        self._levels: list[tuple[object, ...]] = []

    def take(self, account: Account) -> None:
        """Take what changed of an account: from then on it counts as written."""
        channel, unsaved = account.channel, account.unsaved
        account.version += 1
        self._channels.append((
            channel, account.version, account.time_zone, account.registered_on,
            account.first_cycle_on, account.open_from, account.settled_on, account.sequence,
            account.entries, account.notices, account.due_at, account.closes_at(self._catalog),
        ))  # fmt: skip
        if unsaved.settings or unsaved.lots or unsaved.reservations:
            self._take_decisions(account)
        for name in unsaved.windows:
            held = account.lots[name]
            for number in sorted(held.changed):
                window = held.windows[number]
                self._windows.append((
                    channel, held.lot, number, held.starts[number], held.quota, held.maximum,
                    window.own, window.carried, window.borrowed, window.minimum, window.lent,
                    window.taken,
                ))  # fmt: skip
            held.changed = NO_WINDOWS
        unsaved.windows = NOTHING
        for product, books in account.books.items():
            tallies = books.tallies
            if isinstance(tallies, Counts):
                if tallies.changed:
                    self._tallies += [
                        (channel, product, day, kind, total.quantity, total.messages)
                        for (day, kind), total in tallies.changed.items()
                    ]
                    tallies.changed.clear()
                continue
            if not tallies.changed and not tallies.changed_before:
                continue
            for (person, day), (peak, last) in tallies.changed.items():
                last_at, last_level = last if last is not None else (None, None)
                self._readings.append((channel, product, person, day, peak, last_at, last_level))
            tallies.changed.clear()
            for person, report in tallies.changed_before.items():
                self._levels.append((channel, product, person, report.at, report.level))
            tallies.changed_before.clear()

    async def write(self, driver: Any) -> None:
        """Write all of it."""
        if not self._channels:
            return
        await driver.execute(_SAVE, *zip(*self._channels, strict=True))
        await database.insert(driver, setting, self._settings)
        await database.upsert(driver, lot, self._lots)
        await database.upsert(driver, lot_window, self._windows)
        await database.upsert(driver, reservation, self._reservations)
        await database.upsert(driver, tally, self._tallies)
        await database.upsert(driver, reading, self._readings)
        await database.upsert(driver, level, self._levels)

    def _take_decisions(self, account: Account) -> None:
        channel, unsaved = account.channel, account.unsaved
        for value_name, of, value in unsaved.settings:
            text = orjson.dumps(value.value).decode()
            row = (channel, value_name, of, value.sequence, value.at, value.on, text)
            self._settings.append(row)
        for name in unsaved.lots:
            held = account.lots[name]
            self._lots.append((
                channel, held.lot, held.product.name, held.quota, held.starts_on, held.ends_on,
                held.month_price, held.price, held.is_refunded, held.has_started, held.has_ended,
                held.expiring_told, held.expired,
            ))  # fmt: skip
        for name in unsaved.reservations:
            made = account.reservations[name]
            self._reservations.append((
                channel, made.lot, made.product, made.made_on, made.sequence, made.executes_on,
                made.state,
            ))  # fmt: skip
        account.unsaved = Unsaved()
