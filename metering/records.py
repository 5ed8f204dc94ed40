"""What is done record by record: a batch is sorted out before anything is locked, and taken in once
all is known that concerns it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metering.commands import Command
from metering.errors import Rejected
from metering.events import Void
from metering.intake import Arrival
from metering.storage.event_rows import Claimed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metering.batches import Work
    from metering.catalog import Catalog
    from metering.storage.event_rows import EventRows

# A command may be about any open day: it stands for an instant before all of them.
ALL_DAYS: Final = 0

NO_MONTH: Final = -1


def sort_out(work: Work, catalog: Catalog, rows: EventRows) -> None:
    """Sort the records of a batch, and write the claim of each identity once: of several copies,
    for the one that was read first.

    Records that come too early or too late need no identity: they are rejected in their turn.
    """
    ahead, horizon = catalog.rules.ahead, catalog.rules.horizon
    readable, messages, claims, claimants = (
        work.readable, work.messages, work.claims, work.claimants
    )  # fmt: skip
    commands, oldest, places = work.commands, work.oldest, work.places
    month, claimed = NO_MONTH, Claimed()
    for record in work.records:
        work.note_read(record)
        message = record.found
        if isinstance(message, Rejected):
            work.unreadable.append(record)
            continue
        index = len(readable)
        readable.append(record)
        messages.append(message)
        claims.append(None)
        channel, digest = message.channel, message.digest
        at, clock, is_command = message.at, record.clock, isinstance(message, Command)
        own = places.get(channel)
        if own is None:
            own = places[channel] = []
        own.append(index)
        if isinstance(message, Void):
            work.targets.add((channel, message.target))
        if at > clock + ahead or (at < clock - horizon and not is_command):
            continue
        since = ALL_DAYS if is_command else at
        if since < oldest.get(channel, at + 1):
            oldest[channel] = since
        if digest in claimants or (commands and (channel, digest) in commands):
            continue
        if isinstance(message, Command):
            commands[channel, digest] = (message, record.place)
            continue
        own_month, row, worth = rows.write(message, record.position, record.offset)
        claims[index], claimants[digest] = worth, index
        if own_month != month:
            month, claimed = own_month, work.claimed.setdefault(own_month, Claimed())
        claimed.add(channel, digest, row)


def take_in(work: Work, places: Sequence[int]) -> None:
    """Take the records at some places in, in the order in which they were read, and settle the
    channels that they are about.
    """
    taking = work.intake
    accounts, is_batch, met = taking.accounts, not taking.follows_records, work.met()
    if is_batch:
        for account in accounts.values():
            if taking.is_behind(account):
                taking.catch_up(account.channel, 0)
    messages, claims = work.messages, work.claims
    for index in places:
        message, worth = messages[index], claims[index]
        if (
            worth is not None
            and is_batch
            and index not in met
            and taking.take_plain(message, worth)
        ):
            continue
        key = (message.channel, message.digest)
        # A copy, or a void, asks what is known of an event of this very batch.
        work.recall(key, before=index)
        if isinstance(message, Void):
            work.recall((message.channel, message.target), before=index)
        # Only by the record that claims it: another one of this name may be rejected.
        if worth is not None:
            work.special.add(key)
        record = work.readable[index]
        if not is_batch:
            # With clocks of their own, what is due by a record's clock happens before it.
            taking.catch_up(message.channel, record.clock)
        taking.take(Arrival(record.place, record.clock, message))
    for channel in taking.effects.touched & accounts.keys():
        taking.settle(accounts[channel], None)
