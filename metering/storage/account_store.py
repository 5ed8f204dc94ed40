"""Accounts: everything that is open of a channel, loaded whole, written back where it changed."""

from __future__ import annotations

from datetime import date
from sys import intern
from typing import TYPE_CHECKING, Any, cast, get_args

import orjson

from metering.accounts import NOTHING, Account, Reservation, Setting, Unsaved, ValueName
from metering.catalog import PRODUCTS
from metering.lots import NO_WINDOWS, Lot, Window
from metering.periods import ONE_DAY
from metering.storage import database, daybook, tables
from metering.storage.database import OF_THESE, as_json
from metering.tallies import Counts, PersonDay, Readings, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from metering.catalog import Catalog

_REMEMBER = """
INSERT INTO channel (channel) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING
"""
_LOCK = f"""
SELECT channel, version, sequence, time_zone IS NOT NULL AS is_registered FROM channel
WHERE {OF_THESE} ORDER BY channel FOR UPDATE
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
# Channels and the first open day of each that is wanted, as two lists in JSON. To ask for that day
# here again took twice the time of what is asked with it.
_OPEN = """ROWS FROM (
    json_array_elements_text($1), json_array_elements_text($2)
) AS o (channel, since)"""

# Rows are taken apart in this order of columns: to ask for each by its name takes 0.20 instead of
# 0.08 microseconds a row of seven.
_ACCOUNTS = f"""
SELECT channel, time_zone, registered_on, first_cycle_on, open_from, sequence, version, entries,
    notices, due_at, true AS is_due_known, settled_on
FROM channel WHERE {OF_THESE}
"""
_LOTS = f"""
SELECT channel, lot, product, quota, starts_on, month_price, price, is_refunded, has_started,
    has_ended, expiring_told, expired
FROM lot WHERE {OF_THESE} AND ends_on >= $2
"""
_RESERVATIONS = f"""
SELECT channel, lot, product, made_on, sequence, executes_on, state FROM reservation
WHERE {OF_THESE} AND (state = 'waiting' OR $2)
"""
# What is of those lots and reservations, whose names come as a list in JSON; and by chance of some
# with the same name. To look each up by its own channel took three times as long.
_NAMED = "= ANY (ARRAY(SELECT json_array_elements_text($2)))"
_VALUE_NAMES = ", ".join(f"'{name}'" for name in get_args(ValueName))
_SETTINGS = f"""
SELECT channel, name, "of", at, sequence, on_day, value FROM setting
WHERE {OF_THESE} AND name IN ({_VALUE_NAMES}) AND "of" {_NAMED}
"""
# A month of a lot has a row once something was booked on it.
_WINDOWS = f"""
SELECT channel, lot, number, own, carried, borrowed, minimum, lent, taken FROM lot_window
WHERE {OF_THESE} AND lot {_NAMED} AND own + carried + borrowed + minimum + lent + taken > 0
"""
_DAYS = f"""
SELECT d.channel, d.on_day, d.tallies, d.tallied, d.fills, d.filled
FROM {_OPEN} JOIN daybook d ON d.channel = o.channel AND d.on_day >= o.since::date
"""
_LEVELS = f"SELECT channel, product, person, at, level FROM level WHERE {OF_THESE}"
_READINGS = f"""
SELECT r.channel, r.product, r.person, r.on_day, r.peak, r.last_at, r.last_level
FROM {_OPEN} JOIN reading r ON r.channel = o.channel AND r.on_day >= o.since::date
"""
# What was reported on the open days before those that are wanted. The two other days are the first
# open one, and the one with which the cycle begins that goes on in them.
_CUT = """ROWS FROM (
    json_array_elements_text($1), json_array_elements_text($2), json_array_elements_text($3),
    json_array_elements_text($4)
) AS o (channel, since, open_from, cycle_on)"""
_EARLIER_READINGS = f"""
SELECT r.channel, r.product, r.person,
    max(r.peak) FILTER (WHERE r.on_day >= o.cycle_on::date),
    (max(ARRAY[r.last_at, r.last_level])
        FILTER (WHERE r.last_at IS NOT NULL AND r.on_day < o.cycle_on::date))[2],
    (max(ARRAY[r.last_at, r.last_level]) FILTER (WHERE r.last_at IS NOT NULL))[2]
FROM {_CUT} JOIN reading r ON r.channel = o.channel
    AND r.on_day >= o.open_from::date AND r.on_day < o.since::date
GROUP BY r.channel, r.product, r.person
"""
_TOLD = f"""
SELECT n.channel, n.kind, n.product, n.on_day, n.detail
FROM {_OPEN} JOIN notice n ON n.channel = o.channel AND n.on_day >= o.since::date - 31
WHERE n.kind IN ('quota_used', 'limit_reached', 'lot_low', 'borrowing', 'postpaid')
ORDER BY n.number
"""


async def lock(
    driver: Any, channels: Collection[str], *, unknown: Collection[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Lock channels until the transaction ends; returns the versions of those that are registered,
    and how many commands each had.

    A channel that nobody saw before gets a row first: a registration and an event in two
    transactions would miss each other otherwise. Rows are locked in one fixed order, so that two
    batches queue instead of deadlocking.
    """
    if unknown:
        await driver.execute(_REMEMBER, sorted(unknown))
    rows = await driver.fetch(_LOCK, as_json(channels))
    registered = [row for row in rows if row["is_registered"]]
    versions = {row["channel"]: row["version"] for row in registered}
    return versions, {row["channel"]: row["sequence"] for row in registered}


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


async def load(
    driver: Any,
    channels: Collection[str],
    needed_from: Callable[[Account], date] | None = None,
    *,
    deciding: Collection[str] = (),
) -> dict[str, Account]:
    """Load registered channels with all that is open of them, or what came of the days before the
    one from which on each is needed.

    Lots that are over come with them only where nothing is said of the days, and for those channels
    about which commands are to be decided: a customer of many years has many.
    """
    if not channels:
        return {}
    rows = await driver.fetch(_ACCOUNTS, as_json(channels))
    accounts = {row[0]: Account(*row) for row in rows}
    these = as_json(accounts)
    for account in accounts.values():
        account.has_all_lots = needed_from is None or account.channel in deciding
    for has_all_lots in (False, True):
        alike = {
            name: account
            for name, account in accounts.items()
            if account.has_all_lots == has_all_lots
        }
        if alike:
            await _load_decisions(driver, alike, has_all_lots=has_all_lots)
    if needed_from is not None:
        for account in accounts.values():
            account.hold_from(needed_from(account))
    since = as_json([account.held_from for account in accounts.values()])
    persons: dict[bytes, bytes] = {}  # One object for each, however many rows name it.
    await _load_readings(driver, these, since, accounts, persons)
    cut = {name: account for name, account in accounts.items() if account.is_cut}
    if cut:
        await _load_earlier_readings(driver, cut, persons)
    await _load_days(driver, these, accounts)
    await _load_told(driver, these, accounts)
    for account in accounts.values():
        _as_poured(account)
    return accounts


async def _load_decisions(
    driver: Any, accounts: Mapping[str, Account], *, has_all_lots: bool
) -> None:
    """Load what was decided: lots, reservations, values."""
    these = as_json(accounts)
    if has_all_lots:
        ends_from = date.min
    else:
        # What is left over on the day after the last expires on that day, which may be open.
        ends_from = min([account.open_from for account in accounts.values()]) - ONE_DAY
    names = {"", *PRODUCTS}  # Values are of lots, reservations, products, or the channel itself.
    for channel, name, product, *held in await driver.fetch(_LOTS, these, ends_from):
        accounts[channel].lots[name] = Lot(name, PRODUCTS[product], *held)
        names.add(name)
    for channel, name, *made in await driver.fetch(_RESERVATIONS, these, has_all_lots):
        accounts[channel].reservations[name] = Reservation(name, *made)
        names.add(name)
    named = as_json(names)
    for channel, name, number, *booked in await driver.fetch(_WINDOWS, these, named):
        lot = accounts[channel].lots.get(name)
        if lot is not None:
            lot.windows[number] = Window(*booked)
    for channel, name, of, at, sequence, on, value in await driver.fetch(_SETTINGS, these, named):
        known = Setting(at, sequence, on, orjson.loads(value))
        accounts[channel].put_value(cast("ValueName", intern(name)), intern(of), known)


async def _load_days(driver: Any, these: str, accounts: Mapping[str, Account]) -> None:
    """Load what was used and booked on the open days, and sum what came of those of the running
    cycle that are not held.
    """
    since = as_json(
        account.cycle_on(account.held_from - ONE_DAY) if account.is_cut else account.held_from
        for account in accounts.values()
    )
    for channel, on, tallies, tallied, fills, filled in await driver.fetch(_DAYS, these, since):
        account = accounts[channel]
        if on < account.held_from:
            daybook.add_earlier(account, fills, filled)
        else:
            daybook.put_day(account, on, tallies, tallied, fills, filled)


async def _load_readings(
    driver: Any,
    these: str,
    since: str,
    accounts: Mapping[str, Account],
    persons: dict[bytes, bytes],
) -> None:
    """Load what was reported on the days that are held, and the levels before the open ones."""
    for channel, product, person_id, at, height in await driver.fetch(_LEVELS, these):
        person = persons.setdefault(person_id, person_id)
        _readings(accounts[channel], product).put_before(person, Report(at, height))
    rows = await driver.fetch(_READINGS, these, since)
    for channel, product, person_id, on, peak, last_at, last_level in rows:
        told = PersonDay(peak, last_at, last_level or 0)
        person = persons.setdefault(person_id, person_id)
        _readings(accounts[channel], product).put(person, on, told)


async def _load_told(driver: Any, these: str, accounts: Mapping[str, Account]) -> None:
    """Load what was told of the open days."""
    open_from = as_json([account.open_from for account in accounts.values()])
    for channel, kind, product, on, detail in await driver.fetch(_TOLD, these, open_from):
        _remember_notice(accounts[channel], kind, product, on, orjson.loads(detail))


async def _load_earlier_readings(
    driver: Any, accounts: Mapping[str, Account], persons: dict[bytes, bytes]
) -> None:
    """Load what was reported on the open days that are not held."""
    cut = [
        as_json(accounts),
        as_json([held.held_from for held in accounts.values()]),
        as_json([held.open_from for held in accounts.values()]),
        as_json([held.cycle_on(held.held_from - ONE_DAY) for held in accounts.values()]),
    ]
    rows = await driver.fetch(_EARLIER_READINGS, *cut)
    for channel, product, person_id, peak, first, last in rows:
        person = persons.setdefault(person_id, person_id)
        _readings(accounts[channel], product).put_earlier(person, peak or 0, first, last)


def _readings(account: Account, product: str) -> Readings:
    readings = account.books_of(product).tallies
    assert isinstance(readings, Readings)
    return readings


def _remember_notice(
    account: Account, kind: str, product: str, on: date, detail: Mapping[str, object]
) -> None:
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
        self._days: list[daybook.Row] = []
        self._readings: list[tuple[object, ...]] = []
        self._levels: list[tuple[object, ...]] = []

    def take(self, account: Account) -> None:
        """Take what changed of an account: from then on it counts as written."""
        channel, unsaved = account.channel, account.unsaved
        account.note_written()
        self._channels.append((
            channel, account.version, account.time_zone, account.registered_on,
            account.first_cycle_on, account.open_from, account.settled_on, account.sequence,
            account.entries, account.notices, account.due_at, account.closes_at(self._catalog),
        ))  # fmt: skip
        self._days += [daybook.row_of(channel, *changed) for changed in account.take_changed()]
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
                continue
            if not tallies.changed and not tallies.changed_before:
                continue
            for (person, day), (peak, at, level) in tallies.changed.items():
                row = (channel, day, product, person, peak, at, None if at is None else level)
                self._readings.append(row)
            tallies.changed.clear()
            for person, report in tallies.changed_before.items():
                self._levels.append((channel, product, person, report.at, report.level))
            tallies.changed_before.clear()

    async def write(self, driver: Any) -> None:
        """Write all of it."""
        if not self._channels:
            return
        await database.upsert(driver, tables.channel, self._channels)
        await database.insert(driver, tables.setting, self._settings)
        await database.upsert(driver, tables.lot, self._lots)
        await database.upsert(driver, tables.lot_window, self._windows)
        await database.upsert(driver, tables.reservation, self._reservations)
        await database.upsert(driver, tables.daybook, self._days)
        await database.upsert(driver, tables.reading, self._readings)
        await database.upsert(driver, tables.level, self._levels)

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
