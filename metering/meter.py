"""Record a batch: the whole story, in one transaction.

Positions, identities, tallies, draws, ledger, rejects and notices move together or not at all. Locks are taken in one
order: positions, identities, channels; each sorted.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from asyncpg.exceptions import PostgresError
from sqlalchemy.exc import DBAPIError

from metering import intake, statements
from metering.commands import Command, Register
from metering.errors import Rejected
from metering.events import Void
from metering.intake import Arrival, Intake, Parked, Place
from metering.periods import ONE_DAY
from metering.storage import (
    account_store,
    event_store,
    ledger_store,
    outbox_store,
    parked_store,
    position_store,
)
from metering.storage.database import describe, driver_of, is_about_a_value, transaction
from metering.storage.outbox_store import Draft, Headers
from metering.storage.position_store import Claim, Partition, Slice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from metering.accounts import Account
    from metering.catalog import Catalog
    from metering.intake import Identity, Message

__all__ = ["Batch", "Claim", "Meter", "Partition", "Place", "Receipt", "Record", "Slice"]

# Accounts that are kept in memory between batches; each takes some kilobytes.
ACCOUNTS_KEPT_MAX = 20_000

# Channels that are due are settled a few hundred at a time, so that the stream waits for less than a second.
DUE_CHANNELS_MAX = 300

Key = tuple[str, bytes]


class Record(NamedTuple):
    """One record of a topic, and what it says: an event, a command, or why it can be neither."""

    place: Place
    clock: int  # The instant at which it arrived.
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    found: Message | Rejected


class Batch(NamedTuple):
    """Records in the order in which they were read, with the stretches of the partitions that they fill."""

    slices: Sequence[Slice]
    records: Sequence[Record]

    def halves(self) -> tuple[Batch, Batch]:
        """Split it in two that follow each other; each offset goes with one of them."""
        middle = len(self.records) // 2
        reached = {part.claim.number: part.from_offset for part in self.slices}
        for record in self.records[:middle]:
            reached[record.place.partition] = record.place.offset + 1
        first = [
            # The second half holds the records up to which it was read.
            part._replace(to_offset=reached[part.claim.number], anchor=None, read_up_to=0)
            for part in self.slices
            if reached[part.claim.number] > part.from_offset
        ]
        second = [part._replace(from_offset=reached[part.claim.number]) for part in self.slices]
        return Batch(first, self.records[:middle]), Batch(
            [part for part in second if part.to_offset > part.from_offset], self.records[middle:]
        )


@dataclass(slots=True)
class Receipt:
    """What a batch came to. Quantities are thousandths of a unit."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # By topic and outcome.
    rejected: Counter[str] = field(default_factory=Counter)  # By reason.
    late: int = 0
    booked: Counter[tuple[str, str]] = field(default_factory=Counter)  # By product and source.
    returned: Counter[tuple[str, str]] = field(default_factory=Counter)
    notices: Counter[str] = field(default_factory=Counter)  # By kind.
    taken_up: Counter[str] = field(
        default_factory=Counter
    )  # Records that had waited, by what became of them.

    def add(self, other: Receipt) -> None:
        """Add what another batch came to."""
        self.late += other.late
        for name in ("outcomes", "rejected", "booked", "returned", "notices", "taken_up"):
            getattr(self, name).update(getattr(other, name))


class Decode(Protocol):
    """What the meter needs to read records again that waited."""

    def __call__(self, topic: str, value: bytes | None, headers: Headers) -> Message:
        """Read a record. Raises Rejected."""


class Meter:
    """The books, as whoever reads the topics sees them."""

    def __init__(
        self, engine: AsyncEngine, catalog: Catalog, decode: Decode, *, group: str
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._decode = decode
        self._group = group
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._known_channels: set[str] = set()
        self._months: set[int] = set()

    # Partitions

    async def claim(
        self, partitions: Mapping[Partition, int], *, owner: str, cluster_id: str, now: int = 0
    ) -> list[Claim]:
        """Claim partitions; one that was never read starts at the offset given for it."""
        async with transaction(self._engine) as connection:
            return await position_store.claim(
                connection,
                partitions,
                group=self._group,
                owner=owner,
                cluster_id=cluster_id,
                now=now,
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

        What is due happens by `now`; without it, by the clock of each record. Raises Fenced, and Unavailable, after
        which the outcome is unknown until the position has been read again.
        """
        try:
            return await self._record(batch, now)
        except (DBAPIError, PostgresError) as error:
            if not is_about_a_value(error):
                raise
            # One record is to blame. Nothing of the batch stands: find it by halves, and let its neighbours apply.
            if len(batch.records) > 1:
                first, second = batch.halves()
                receipt = await self.record(first, now=now)
                receipt.add(await self.record(second, now=now))
                return receipt
            if not batch.records or isinstance(batch.records[0].found, Rejected):
                raise
            refused = Rejected("unprocessable", f"the database refuses it: {describe(error)}")
            alone = batch.records[0]._replace(found=refused)
            return await self._record(batch._replace(records=[alone]), now)

    async def _record(self, batch: Batch, now: int | None) -> Receipt:
        admitted = self._admit(batch.records)
        await self._ensure_months(admitted)
        work = _Work(batch.records)
        work.partitions = {
            part.claim.number: part.claim.partition.partition for part in batch.slices
        }
        try:
            async with transaction(self._engine) as connection:
                await position_store.advance(connection, batch.slices)
                driver = await driver_of(connection)
                closing_clock = None
                if now is not None:
                    closing_clock = await position_store.read_up_to(connection, self._group) or 0
                work.taking = Intake(self._catalog, due_clock=now, closing_clock=closing_clock)
                await self._claim_identities(driver, work, admitted)
                await self._open_accounts(
                    driver, work, {record.found.channel for record in admitted}
                )
                await self._look_up(driver, work, admitted)
                self._take_in(work)
                await self._keep(driver, work)
                await position_store.keep_account(driver, work.account_for(batch.slices))
        except BaseException:
            # What was loaded has been worked on, and nobody knows whether that stands.
            self._forget(work)
            raise
        return self._finish(work)

    async def settle_due(
        self, *, now: int, closing_clock: int | None = None
    ) -> tuple[Receipt, int]:
        """Let happen what is due by the clock, for some channels; returns how many there were.

        Cycles close up to `closing_clock`; without it, as far as every partition has been read.
        """
        work = _Work(())
        try:
            async with transaction(self._engine) as connection:
                if closing_clock is None:
                    closing_clock = await position_store.read_up_to(connection, self._group) or 0
                driver = await driver_of(connection)
                parked_before = now - self._catalog.rules.horizon
                names, versions = await account_store.lock_due(
                    driver,
                    now=now,
                    closing_clock=closing_clock,
                    parked_before=parked_before,
                    channels_max=DUE_CHANNELS_MAX,
                )
                taking = work.taking = Intake(
                    self._catalog, due_clock=now, closing_clock=closing_clock
                )
                await self._load_accounts(driver, taking, versions)
                for channel in taking.accounts:
                    taking.effects.touched.add(channel)
                    taking.catch_up(channel, now)
                overdue = await parked_store.find_overdue(
                    driver, names, before=parked_before, records_max=DUE_CHANNELS_MAX
                )
                self._put_waiting(work, overdue)
                for waiting in [
                    parked for kept in taking.parked.values() for parked in kept.values()
                ]:
                    taking.expire(waiting, now)
                await self._keep(driver, work)
        except BaseException:
            self._forget(work)
            raise
        return self._finish(work), len(names)

    # The steps of a batch, in their order

    def _admit(self, records: Sequence[Record]) -> list[Record]:
        """Pick the records that say something and come in time: the others need no identity."""
        rules = self._catalog.rules
        return [
            record
            for record in records
            if not isinstance(record.found, Rejected)
            and record.found.at <= record.clock + rules.ahead
            and (
                isinstance(record.found, Command) or record.found.at >= record.clock - rules.horizon
            )
        ]

    async def _ensure_months(self, admitted: Iterable[Record]) -> None:
        months = {
            event_store.month_of(record.found.at)
            for record in admitted
            if not isinstance(record.found, Command | Rejected)
        }
        missing = months - self._months
        if missing:
            # Apart from the batch: making a table waits for those who read the others.
            async with transaction(self._engine) as connection:
                driver = await driver_of(connection)
                for month in sorted(missing):
                    await event_store.ensure_month(driver, month)
            self._months |= missing

    async def _claim_identities(self, driver: Any, work: _Work, admitted: Sequence[Record]) -> None:  # noqa: ANN401
        """Claim each identity once: of several copies in a batch, for the one that was read first."""
        for record in admitted:
            message = record.found
            assert not isinstance(message, Rejected)
            key = (message.channel, message.digest)
            if key in work.rows or key in work.commands:
                continue
            if isinstance(message, Command):
                work.commands[key] = (message, record.place)
            else:
                work.rows[key] = event_store.row_for(message, record.place, self._catalog)
        work.events_claimed = await event_store.claim_events(driver, list(work.rows.values()))
        await event_store.claim_commands(driver, work.commands.values())

    async def _open_accounts(self, driver: Any, work: _Work, channels: Collection[str]) -> None:  # noqa: ANN401
        unknown = {channel for channel in channels if channel not in self._known_channels}
        versions = await account_store.lock(driver, channels, unknown=unknown)
        work.channels = unknown
        await self._load_accounts(driver, work.intake, versions)

    async def _load_accounts(
        self, driver: Any, taking: Intake, versions: Mapping[str, int]
    ) -> None:  # noqa: ANN401
        missing = []
        for channel, version in versions.items():
            kept = self._accounts.pop(channel, None)
            if kept is not None and kept.version == version:
                taking.accounts[channel] = kept
            else:
                missing.append(channel)
        taking.accounts.update(await account_store.load(driver, missing))

    async def _look_up(self, driver: Any, work: _Work, admitted: Sequence[Record]) -> None:  # noqa: ANN401
        """Find what is known of these identities, of events to take back, and of records that wait.

        This comes after the channels were locked: whoever claimed one of these identities elsewhere is done by then.
        """
        taking = work.intake
        own = set(work.rows) | set(work.commands)
        targets = {
            (record.found.channel, record.found.target)
            for record in admitted
            if isinstance(record.found, Void)
        }
        if work.events_claimed < len(work.rows):
            work.not_claimed = await event_store.not_claimed(driver)
        if work.rows:
            taking.identities.update(
                await event_store.met_before(driver, self._live_months(admitted))
            )
        for key, identity in (await event_store.find(driver, targets | set(work.commands))).items():
            # What this very batch claims is taken in when its turn comes.
            if identity.place != work.place_of(key):
                taking.identities[key] = identity
        registering = {
            record.found.channel
            for record in admitted
            if isinstance(record.found, Command) and isinstance(record.found.order, Register)
        }
        self._put_waiting(
            work, await parked_store.find(driver, own | targets, registering=registering)
        )

    def _live_months(self, admitted: Sequence[Record]) -> range:
        """Tell in which months an event may stand whose identity these records could share."""
        rules = self._catalog.rules
        first = event_store.month_of(min(record.clock for record in admitted) - rules.horizon)
        last = event_store.month_of(max(record.clock for record in admitted) + rules.ahead)
        return range(first, last + 1)

    def _put_waiting(self, work: _Work, waiting: Iterable[parked_store.Waiting]) -> None:
        for row in waiting:
            message = self._decode(row.topic, row.value, row.headers)
            parked = Parked(Arrival(row.place, row.clock, message), row.waits_for)
            work.intake.put_parked(parked)
            work.partitions[row.place.partition] = row.partition
            work.waited[message.channel, message.digest] = {event_store.month_of(message.at)}
            work.originals[row.place] = Record(
                row.place, row.clock, row.topic, row.key, row.value, row.headers, message
            )

    def _take_in(self, work: _Work) -> None:
        taking = work.intake
        for record in work.records:
            if isinstance(record.found, Rejected):
                continue
            channel = record.found.channel
            account = taking.accounts.get(channel)
            # With clocks of their own, what is due by a record's clock happens before it.
            if account is not None and (taking.follows_records or taking.is_behind(account)):
                taking.catch_up(channel, record.clock)
            taking.take(Arrival(record.place, record.clock, record.found))
        for channel in taking.effects.touched & taking.accounts.keys():
            taking.settle(taking.accounts[channel], None)

    async def _keep(self, driver: Any, work: _Work) -> None:  # noqa: ANN401
        """Write what changed."""
        taking, effects = work.intake, work.intake.effects
        await self._keep_identities(driver, work)
        await ledger_store.append(driver, taking.accounts, effects.entries)
        await ledger_store.close_cycles(driver, effects.closings)
        told = [(channel, happening) for channel, happening, _ in effects.happenings]
        await ledger_store.issue(driver, taking.accounts, told)
        touched = [
            taking.accounts[channel] for channel in sorted(effects.touched & taking.accounts.keys())
        ]
        for account in touched:
            assert account.settled_on is not None
            account.due_at = intake.due_at(account, self._catalog, today=account.settled_on)
        await account_store.save(driver, self._catalog, touched)
        rejects = work.rejects()
        await ledger_store.keep_rejects(driver, rejects)
        zones = {channel: account.time_zone for channel, account in taking.accounts.items()}
        drafts = [
            outbox_store.draft_notice(zones[channel], channel, happening)
            for channel, happening in told
        ]
        drafts += [
            self._draft_statement(taking.accounts[closing.channel], closing)
            for closing in effects.closings
        ]
        drafts += [work.dead_letter(reject) for reject in rejects]
        await outbox_store.put(driver, drafts)

    async def _keep_identities(self, driver: Any, work: _Work) -> None:  # noqa: ANN401
        """Put those records right that do not stand as they were claimed."""
        taking, effects = work.intake, work.intake.effects
        rewritten, answered, waiting = [], [], []
        stands: set[Key] = set()
        for key in effects.claimed:
            identity = taking.identities.get(key)
            if identity is None:
                continue
            stands.add(key)
            message = identity.message
            if isinstance(message, Command):
                answer = effects.answers.get(message.digest)
                answered.append(
                    event_store.command_row(message, identity.place, identity.state, answer)
                )
            elif key in work.not_claimed or not work.is_as_claimed(key, identity):
                rewritten.append(event_store.row_as_standing(identity))
        for channel, parked in effects.parked:
            digest = parked.arrival.message.digest
            # One that waited for its channel may go on waiting for its event.
            if taking.parked.get(channel, {}).get(digest) is parked:
                waiting.append((channel, digest, parked.arrival.message.at, work.waiting(parked)))
        gone = {
            key for key in (effects.released | work.rows.keys() | work.commands.keys()) - stands
        }
        gone = {key for key in gone if key not in taking.identities}
        # An identity that was let go may have been claimed again, at another time.
        moved = {row[:2] for row in rewritten} & (effects.released | work.rows.keys())
        months = {(*key, month) for key in gone | moved for month in work.months_of(key)}
        await event_store.release(driver, months - {row[:3] for row in rewritten})
        await event_store.release_commands(driver, gone)
        await event_store.put_right(driver, rewritten)
        await event_store.put_commands_right(driver, answered)
        voided = {
            (*key, event_store.month_of(taking.identities[key].at)) for key in effects.changed
        }
        await event_store.mark_voided(driver, voided)
        await parked_store.remove(driver, effects.unparked)
        await parked_store.add(driver, waiting)

    def _draft_statement(self, account: Account, closing: intake.Closing) -> Draft:
        document = {
            **closing.document,
            "plan": account.plan_on(closing.ends_on),
            "lots": statements.lots(account, today=closing.ends_on + ONE_DAY),
        }
        return outbox_store.draft_statement(account, closing, document)

    # Accounts that are kept in memory

    def _finish(self, work: _Work) -> Receipt:
        """Keep the accounts for the next batch, now that it is certain how they stand."""
        self._known_channels |= work.channels
        if len(self._known_channels) > ACCOUNTS_KEPT_MAX:
            self._known_channels.clear()
        self._accounts.update(work.intake.accounts)
        while len(self._accounts) > ACCOUNTS_KEPT_MAX:
            self._accounts.popitem(last=False)
        return work.receipt()

    def _forget(self, work: _Work) -> None:
        if work.taking is not None:
            for channel in work.taking.accounts:
                self._accounts.pop(channel, None)


class _Work:
    """One batch at work, between its records and the database."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.taking: Intake | None = None
        self.rows: dict[Key, event_store.EventRow] = {}
        self.commands: dict[Key, tuple[Command, Place]] = {}
        self.events_claimed = 0
        self.not_claimed: set[Key] = set()
        self.channels: set[str] = set()  # Those that got a row with this batch.
        self.originals: dict[Place, Record] = {}  # Of records that waited.
        self.waited: dict[Key, set[int]] = {}  # The months of events that waited.
        self.partitions: dict[
            int, int
        ] = {}  # The number of a partition in its topic, by that in the books.

    @property
    def intake(self) -> Intake:
        """The batch at work, once its transaction has begun."""
        assert self.taking is not None
        return self.taking

    def place_of(self, key: Key) -> Place | None:
        """Tell for which record of this batch an identity was claimed."""
        if key in self.rows:
            return Place(*self.rows[key][5:7])
        return self.commands[key][1] if key in self.commands else None

    def is_as_claimed(self, key: Key, identity: Identity) -> bool:
        """Say whether the record of an event stands as it was written when it was claimed."""
        row = self.rows.get(key)
        return (
            row is not None
            and identity.state != "parked"
            and not identity.is_late
            and identity.place == row[5:7]
            and (not identity.kind or identity.quantity == row[10])
        )

    def months_of(self, key: Key) -> set[int]:
        """Tell in which months the record of an event may stand that is to be forgotten."""
        months = {int(self.rows[key][2])} if key in self.rows else set()
        return months | self.waited.get(key, set())

    def waiting(self, parked: Parked) -> parked_store.Waiting:
        """Write a record that waits, with its original bytes."""
        record = self._record_at(parked.arrival.place)
        assert record.value is not None
        return parked_store.Waiting(
            record.place,
            self.partitions[record.place.partition],
            record.clock,
            parked.waits_for,
            record.topic,
            record.key,
            record.value,
            record.headers,
        )

    def rejects(self) -> list[ledger_store.Reject]:
        """List the rejected records of the batch, those that had waited too."""
        found = [
            ledger_store.Reject(
                record.place, None, record.found.reason, record.found.detail, was_parked=False
            )
            for record in self.records
            if isinstance(record.found, Rejected)
        ]
        for outcome in self.intake.effects.outcomes:
            if outcome.kind == "rejected":
                arrival = outcome.arrival
                found.append(
                    ledger_store.Reject(
                        arrival.place,
                        arrival.message.channel,
                        outcome.reason,
                        outcome.detail,
                        outcome.was_parked,
                    )
                )
        return found

    def dead_letter(self, reject: ledger_store.Reject) -> Draft:
        """Write a rejected record as it came, with where it came from and what is wrong with it."""
        record = self._record_at(reject.place)
        added = (
            ("lotmeter-reason", reject.reason.encode()),
            ("lotmeter-detail", reject.detail.encode()),
            ("lotmeter-topic", record.topic.encode()),
            ("lotmeter-partition", str(self.partitions[record.place.partition]).encode()),
            ("lotmeter-offset", str(record.place.offset).encode()),
        )
        return Draft("dead_letters", record.key, record.value, (*record.headers, *added))

    def account_for(self, slices: Sequence[Slice]) -> list[tuple[int, ...]]:
        """Count what became of the offsets of each slice."""
        counts = {part.claim.number: Counter[str]() for part in slices}
        for record in self.records:
            if isinstance(record.found, Rejected):
                counts[record.place.partition]["rejected"] += 1
        for outcome in self.intake.effects.outcomes:
            if not outcome.was_parked:
                counts[outcome.arrival.place.partition][outcome.kind] += 1
        return [
            (
                part.claim.number,
                part.from_offset,
                part.to_offset,
                part.claim.epoch,
                *(
                    counts[part.claim.number][kind]
                    for kind in ("applied", "duplicate", "parked", "rejected")
                ),
            )  # fmt: skip
            for part in slices
        ]

    def receipt(self) -> Receipt:
        """Sum up the batch."""
        receipt, effects = Receipt(), self.intake.effects
        topics = {record.place: record.topic for record in self.records}
        for reject in self.rejects():
            receipt.rejected[reject.reason] += 1
            if not reject.was_parked:
                receipt.outcomes[topics[reject.place], "rejected"] += 1
        for outcome in effects.outcomes:
            receipt.late += outcome.is_late
            if outcome.was_parked:
                receipt.taken_up[outcome.kind] += 1
            elif outcome.kind != "rejected":
                receipt.outcomes[topics[outcome.arrival.place], outcome.kind] += 1
        for _, entry, _ in effects.entries:
            side = receipt.booked if entry.quantity > 0 else receipt.returned
            side[entry.product, entry.fill.source] += abs(entry.quantity)
        for _, happening, _ in effects.happenings:
            receipt.notices[happening.kind] += 1
        return receipt

    def _record_at(self, place: Place) -> Record:
        if not self.originals.keys() >= {record.place for record in self.records[:1]}:
            self.originals.update((record.place, record) for record in self.records)
        return self.originals[place]
