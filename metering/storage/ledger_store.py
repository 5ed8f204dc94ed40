"""The ledger and what goes with it: entries, the sums they add up to, closed cycles, notices and
rejects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from metering.events import digest_of
from metering.storage import database
from metering.storage.tables import cycle, entry, fill, notice, reject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metering.accounts import Account
    from metering.intake import Closing, Place
    from metering.lifecycle import Happening
    from metering.settlement import Entry


class Reject(NamedTuple):
    """A record that could not be counted, and why."""

    place: Place
    channel: str | None  # None where not even that could be read.
    reason: str
    detail: str
    was_parked: bool


async def append(
    driver: Any,
    accounts: Mapping[str, Account],
    entries: Sequence[tuple[str, Entry, Place | None]],
) -> None:
    """Append lines to the ledgers of locked channels, and move the sums of the days on."""
    lines, sums = [], {}
    for channel, line, place in entries:
        account = accounts[channel]
        account.entries += 1
        product, on, filled, quantity, total, original_on = line
        position, offset = place if place is not None else (None, None)
        what = (product, on, *filled)
        lines.append((channel, account.entries, *what, quantity, original_on, position, offset))
        sums[(channel, *what)] = total
    await database.insert(driver, entry, lines)
    await database.upsert(driver, fill, [(*key, total) for key, total in sums.items()])


async def close_cycles(driver: Any, closings: Sequence[Closing]) -> None:
    """Keep cycles as they will stand for ever."""
    rows = []
    for closing in closings:
        document = orjson.dumps(closing.document, option=orjson.OPT_SORT_KEYS).decode()
        digest = digest_of(closing.channel, document)
        rows.append((closing.channel, closing.starts_on, closing.ends_on, document, digest))
    await database.insert(driver, cycle, rows)


async def issue(
    driver: Any,
    accounts: Mapping[str, Account],
    happenings: Sequence[tuple[str, Happening]],
) -> None:
    """Keep notices of locked channels."""
    rows = []
    for channel, happening in happenings:
        account = accounts[channel]
        account.notices += 1
        detail = orjson.dumps(happening.detail, option=orjson.OPT_SORT_KEYS).decode()
        rows.append(
            (channel, account.notices, happening.kind, happening.product, happening.on, detail)
        )
    await database.insert(driver, notice, rows)


async def keep_rejects(driver: Any, rejects: Sequence[Reject]) -> None:
    """Keep why records were rejected."""
    rows = [
        (*line.place, line.channel, line.reason, line.detail, line.was_parked) for line in rejects
    ]
    await database.insert(driver, reject, rows)
