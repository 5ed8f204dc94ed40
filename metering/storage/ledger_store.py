"""The ledger and what goes with it: entries, closed cycles, notices and rejects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from metering.events import digest_of
from metering.storage import database
from metering.storage.tables import cycle, entry, notice, reject

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


class Ledger:
    """What is entered of locked channels, and what goes with it, as rows to be written at once."""

    def __init__(self) -> None:
        self._lines: list[tuple[object, ...]] = []
        self._cycles: list[tuple[object, ...]] = []
        self._notices: list[tuple[object, ...]] = []

    def append(
        self, accounts: Mapping[str, Account], entries: Sequence[tuple[str, Entry, Place | None]]
    ) -> None:
        """Append lines to the ledgers."""
        for channel, line, place in entries:
            account = accounts[channel]
            account.entries += 1
            product, on, filled, quantity, original_on = line
            position, offset = place if place is not None else (None, None)
            self._lines.append((
                channel, account.entries, product, on, *filled, quantity, original_on, position,
                offset,
            ))  # fmt: skip

    def close(self, closings: Sequence[Closing]) -> None:
        """Keep cycles as they will stand for ever."""
        for closing in closings:
            document = orjson.dumps(closing.document, option=orjson.OPT_SORT_KEYS).decode()
            digest = digest_of(closing.channel, document)
            self._cycles.append(
                (closing.channel, closing.starts_on, closing.ends_on, document, digest)
            )

    def issue(
        self, accounts: Mapping[str, Account], happenings: Sequence[tuple[str, Happening]]
    ) -> None:
        """Keep notices."""
        for channel, happening in happenings:
            account = accounts[channel]
            account.notices += 1
            detail = orjson.dumps(happening.detail, option=orjson.OPT_SORT_KEYS).decode()
            self._notices.append(
                (channel, account.notices, happening.kind, happening.product, happening.on, detail)
            )

    async def write(self, driver: Any) -> None:
        """Write all of it."""
        await database.insert(driver, entry, self._lines)
        await database.insert(driver, cycle, self._cycles)
        await database.insert(driver, notice, self._notices)


async def keep_rejects(driver: Any, rejects: Sequence[Reject]) -> None:
    """Keep why records were rejected."""
    rows = [
        (*line.place, line.channel, line.reason, line.detail, line.was_parked) for line in rejects
    ]
    await database.insert(driver, reject, rows)
