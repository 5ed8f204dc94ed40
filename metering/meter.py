"""Record a batch: the whole story, in one transaction.

Positions, identities, tallies, draws, ledger, rejects and notices move together or not at all.
Locks are taken in one order: positions, identities, channels; each sorted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from asyncpg.exceptions import PostgresError
from sqlalchemy.exc import DBAPIError

from metering import claims, due, records
from metering.account_cache import AccountCache
from metering.accounts import DaysMissing
from metering.batches import Batch, Decode, Receipt, Work
from metering.errors import Rejected
from metering.intake import Intake, Place, Record
from metering.storage import (
    account_store,
    event_store,
    ledger_store,
    outbox_store,
    parked_store,
    position_store,
)
from metering.storage.database import (
    describe,
    driver_transaction,
    go_by_indexes,
    is_about_a_value,
    transaction,
)
from metering.storage.event_rows import EventRows
from metering.storage.position_store import Claim, Partition, Slice

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import date

    from sqlalchemy.ext.asyncio import AsyncEngine

    from metering.accounts import Account
    from metering.catalog import Catalog

__all__ = ["Batch", "Claim", "Decode", "Meter", "Partition", "Place", "Receipt", "Record", "Slice"]

# Names of channels that have a row.
KNOWN_CHANNELS_MAX = 200_000

# For so many batches after one that met a known identity, more of them are expected: a batch that
# begins again costs as much as some that were wary for nothing.
WARY_BATCHES = 30

# The accounts of about so many channels of a batch are in memory at once, some 34 KiB each. More
# take no longer: only with fewer what comes with each group shows.
GROUP_CHANNELS = 250

# Channels that are due are settled a few hundred at a time: the stream waits for less than a
# second.
DUE_CHANNELS_MAX = 300


class Meter:
    """The books, as whoever reads the topics sees them."""

    def __init__(
        self, engine: AsyncEngine, catalog: Catalog, decode: Decode, *, group: str, lanes: int = 1
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._decode = decode
        self._group = group
        self._accounts = AccountCache(lanes=lanes)
        self._rows = EventRows(catalog)
        self._known_channels: set[str] = set()
        self._months: set[int] = set()
        self._wary_batches = 0  # For how many more to expect copies of what is known.

    # Partitions

    async def claim(
        self, partitions: Mapping[Partition, int], *, owner: str, cluster_id: str
    ) -> list[Claim]:
        """Claim partitions; one that was never read starts at the offset given for it."""
        async with transaction(self._engine) as connection:
            return await position_store.claim(
                connection,
                partitions,
                group=self._group,
                owner=owner,
                cluster_id=cluster_id,
            )

    async def mark_read(self, claims: Sequence[Claim], *, read_up_to: int) -> None:
        """Note that nothing more came on partitions that are read to their end."""
        if claims:
            async with transaction(self._engine) as connection:
                await position_store.mark_read(connection, claims, read_up_to=read_up_to)

    async def halt(self, claim: Claim, why: str) -> None:
        """Stop a partition until somebody takes it up again."""
        async with transaction(self._engine) as connection:
            await position_store.halt(connection, claim, why)

    # Records

    async def record(self, batch: Batch, *, now: int | None = None) -> Receipt:
        """Record each event once, however often it is delivered.

        What is due happens by `now`; without it, by the clock of each record. Raises Fenced, and
        Unavailable, after which the outcome is unknown until the position has been read again.
        """
        try:
            return await self._record(batch, now)
        except event_store.SomeAreKnown:
            self._wary_batches = WARY_BATCHES
            return await self.record(batch, now=now)
        except DaysMissing:
            if batch.needs_all_days:
                raise
            return await self.record(batch._replace(needs_all_days=True), now=now)
        except (DBAPIError, PostgresError) as error:
            if not is_about_a_value(error):
                raise
            # One record is to blame. Nothing of the batch stands: find it by halves, and let its
            # neighbours apply.
            if len(batch.records) > 1:
                first, second = batch.halves()
                receipt = await self.record(first, now=now)
                receipt.add(await self.record(second, now=now))
                return receipt
            if not batch.records or isinstance(batch.records[0].found, Rejected):
                raise
            refused = Rejected("unprocessable", f"the database refuses it: {describe(error)}")
            alone = replace(batch.records[0], found=refused)
            return await self._record(batch._replace(records=[alone]), now)

    async def _record(self, batch: Batch, now: int | None) -> Receipt:
        work = Work(self._catalog, batch.records, batch.slices)
        records.sort_out(work, self._catalog, self._rows)
        self._accounts.make_room(records=len(batch.records), channels=len(work.places))
        await self._ensure_months(work.claimed)
        try:
            async with driver_transaction(self._engine) as driver:
                await go_by_indexes(driver)
                await position_store.advance(driver, batch.slices)
                closing_clock = None
                if now is not None:
                    closing_clock = await position_store.read_up_to(driver, self._group) or 0
                work.taking = Intake(self._catalog, due_clock=now, closing_clock=closing_clock)
                await claims.claim(driver, work, expect_known=self._wary_batches > 0)
                versions = await self._lock(driver, work)
                await claims.look_up(driver, self._catalog.rules, self._decode, work)
                for channels, places in work.groups(GROUP_CHANNELS):
                    work.set_accounts_aside(self._accounts.promise)
                    found = {name: versions[name] for name in channels & versions.keys()}
                    await self._load_accounts(driver, work, found, all_days=batch.needs_all_days)
                    records.take_in(work, places)
                    self._note(work)
                work.count()
                await self._keep(driver, work)
                await position_store.keep_account(driver, work.account_for())
        except BaseException:
            # What was loaded has been worked on, and nobody knows whether that stands.
            self._forget(work)
            raise
        self._wary_batches = WARY_BATCHES if work.has_copies else max(0, self._wary_batches - 1)
        return self._finish(work)

    async def settle_due(
        self,
        *,
        now: int,
        closing_clock: int | None = None,
        channels_max: int = DUE_CHANNELS_MAX,
        all_days: bool = False,
    ) -> tuple[Receipt, int]:
        """Let happen what is due by the clock, for some channels; returns how many there were.

        Cycles close up to `closing_clock`; without it, as far as every partition has been read.
        With `all_days` none of the open ones is left out; without it, if none turns out to be
        needed that was.
        """
        work = Work(self._catalog, (), ())
        try:
            async with driver_transaction(self._engine) as driver:
                if closing_clock is None:
                    closing_clock = await position_store.read_up_to(driver, self._group) or 0
                await go_by_indexes(driver)
                parked_before = now - self._catalog.rules.horizon
                names, versions = await account_store.lock_due(
                    driver,
                    now=now,
                    closing_clock=closing_clock,
                    parked_before=parked_before,
                    channels_max=channels_max,
                )
                taking = work.taking = Intake(
                    self._catalog, due_clock=now, closing_clock=closing_clock
                )
                await self._load_accounts(driver, work, versions, all_days=all_days)
                for channel in taking.accounts:
                    taking.effects.touched.add(channel)
                    taking.catch_up(channel, now)
                overdue = await parked_store.find_overdue(
                    driver, names, before=parked_before, records_max=DUE_CHANNELS_MAX
                )
                claims.put_waiting(self._decode, work, overdue)
                for waiting in [
                    parked for kept in taking.parked.values() for parked in kept.values()
                ]:
                    taking.expire(waiting, now)
                self._note(work)
                await self._keep(driver, work)
        except DaysMissing:
            self._forget(work)
            if all_days:
                raise
            return await self.settle_due(
                now=now, closing_clock=closing_clock, channels_max=channels_max, all_days=True
            )
        except BaseException:
            self._forget(work)
            raise
        return self._finish(work), len(names)

    async def drop_old_records(self, *, now: int, kept_months: int) -> int:
        """Let go of the records of events that are older than a number of months, and than twice
        the horizon; returns of how many months there were any.
        """
        by_setting = event_store.month_of(now) - kept_months
        by_horizon = event_store.month_of(now - 2 * self._catalog.rules.horizon)
        async with driver_transaction(self._engine) as driver:
            return await event_store.drop_months(driver, oldest_kept=min(by_setting, by_horizon))

    # The steps of a batch, in their order

    async def _ensure_months(self, months: Collection[int]) -> None:
        missing = set(months) - self._months
        if missing:
            # Apart from the batch: making a table waits for those who read the others.
            async with driver_transaction(self._engine) as driver:
                for month in sorted(missing):
                    await event_store.ensure_month(driver, month)
            self._months |= missing

    async def _lock(self, driver: Any, work: Work) -> Mapping[str, int]:
        unknown = set(work.concerned - self._known_channels)
        versions, work.commands_before = await account_store.lock(
            driver, work.concerned, unknown=unknown
        )
        work.remembered = unknown
        # Where a command comes with the batch, its own identity is read, too.
        silent = {name: versions[name] for name in versions.keys() - work.deciding}
        work.commands_read = self._accounts.commands_of(silent)
        return versions

    async def _load_accounts(
        self, driver: Any, work: Work, versions: Mapping[str, int], *, all_days: bool
    ) -> None:
        taking, accounts = work.intake, work.intake.accounts

        def needed_from(account: Account) -> date:
            if all_days:
                return account.open_from
            return taking.needed_from(account, work.oldest.get(account.channel))

        deciding = work.deciding
        for channel, version in versions.items():
            kept = self._accounts.take(channel, version)
            if kept is None or (channel in deciding and not kept.has_all_lots):
                continue
            if kept.held_from <= needed_from(kept):
                accounts[channel] = kept
                work.in_memory.add(channel)
        missing = versions.keys() - accounts.keys()
        accounts.update(await account_store.load(driver, missing, needed_from, deciding=deciding))
        for channel, account in accounts.items():
            account.commands = work.commands_read.get(channel)

    def _note(self, work: Work) -> None:
        """Note what changed of the accounts at work: from then on they may be let go."""
        accounts, effects = work.intake.accounts, work.intake.effects
        told = [(channel, happening) for channel, happening, _ in effects.happenings]
        work.ledger.append(accounts, effects.entries)
        work.ledger.close(effects.closings)
        work.ledger.issue(accounts, told)
        for channel in sorted(effects.touched & accounts.keys()):
            account = accounts[channel]
            account.due_at = due.due_at(account, self._catalog)
            work.changes.take(account)
        work.drafts += [
            outbox_store.draft_notice(accounts[channel].time_zone, channel, happening)
            for channel, happening in told
        ]
        work.drafts += [
            outbox_store.draft_statement(accounts[closing.channel].time_zone, closing)
            for closing in effects.closings
        ]
        work.sum_up()

    async def _keep(self, driver: Any, work: Work) -> None:
        """Write what changed."""
        await claims.keep(driver, work)
        await work.ledger.write(driver)
        await work.changes.write(driver)
        rejects = work.rejects()
        await ledger_store.keep_rejects(driver, rejects)
        dead_letters = [work.dead_letter(reject) for reject in rejects]
        await outbox_store.put(driver, [*work.drafts, *dead_letters])

    def _finish(self, work: Work) -> Receipt:
        """Keep the accounts for the next batch, now that it is certain how they stand."""
        self._known_channels |= work.remembered
        if len(self._known_channels) > KNOWN_CHANNELS_MAX:
            self._known_channels.clear()
        self._accounts.take_back(work.promised)
        self._accounts.put(work.accounts, loaded=work.accounts.keys() - work.in_memory)
        return work.receipt()

    def _forget(self, work: Work) -> None:
        self._accounts.take_back(work.promised)
        if work.taking is not None:
            self._accounts.forget(work.accounts)
