"""A batch: the records that go into one transaction, what is known of them at work, and what they
came to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence  # noqa: TC003  # Named tuples need it once they are compiled.
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from metering.errors import Rejected
from metering.events import Count, Reading
from metering.intake import Headers, Identity, Place, Record
from metering.storage import account_store, event_store, ledger_store, parked_store
from metering.storage.outbox_store import Draft
from metering.storage.position_store import Slice  # noqa: TC001  # So does it.

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, KeysView, Mapping

    from metering.accounts import Account
    from metering.catalog import Catalog
    from metering.commands import Command
    from metering.events import Worth
    from metering.intake import Intake, Message, Parked
    from metering.storage.event_rows import Claimed
    from metering.storage.event_store import Key


class Batch(NamedTuple):
    """Records in the order in which they were read, with the stretches of the partitions that they
    fill.
    """

    slices: Sequence[Slice]
    records: Sequence[Record]
    needs_all_days: bool = False  # It was begun before with too few of the days of its channels.

    def halves(self) -> tuple[Batch, Batch]:
        """Split it in two that follow each other; each offset goes with one of them."""
        middle = len(self.records) // 2
        reached = {part.claim.number: part.from_offset for part in self.slices}
        for record in self.records[:middle]:
            reached[record.position] = record.offset + 1
        first = [
            # The second half holds the records up to which it was read.
            part._replace(to_offset=reached[part.claim.number], anchor=None, read_up_to=0)
            for part in self.slices
            if reached[part.claim.number] > part.from_offset
        ]
        second = [part._replace(from_offset=reached[part.claim.number]) for part in self.slices]
        second = [part for part in second if part.to_offset > part.from_offset]
        return (
            self._replace(slices=first, records=self.records[:middle]),
            self._replace(slices=second, records=self.records[middle:]),
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
    # Records that had waited, by what became of them.
    taken_up: Counter[str] = field(default_factory=Counter)
    rejects_by_position: Counter[int] = field(default_factory=Counter)

    def add(self, other: Receipt) -> None:
        """Add what another batch came to."""
        self.late += other.late
        for name in (
            "outcomes", "rejected", "booked", "returned", "notices", "taken_up",
            "rejects_by_position",
        ):  # fmt: skip
            getattr(self, name).update(getattr(other, name))


class Decode(Protocol):
    """What the meter needs to read records again that waited."""

    def __call__(self, topic: str, value: bytes | None, headers: Headers) -> Message:
        """Read a record. Raises Rejected."""


class Read:
    """What was read of a partition: how many records, and between which clocks."""

    def __init__(self, position: int, clock: int) -> None:
        self.position = position  # Its number in the books.
        self.records = 0
        self.earliest = self.latest = clock


class Work:
    """One batch at work, between its records and the database."""

    def __init__(
        self, catalog: Catalog, records: Sequence[Record], slices: Sequence[Slice]
    ) -> None:
        self.records = records
        self.slices = slices
        self.taking: Intake | None = None
        self.readable: list[Record] = []  # Events and commands that come in time, or nearly …
        self.messages: list[Message] = []  # … what each of them says …
        self.unreadable: list[Record] = []  # … and what was rejected before it came here.
        self.read: dict[int, Read] = {}  # By the number of the partition in the books.
        self._reading: Read | None = None
        # Where the readable records of each channel stand among them, in their order.
        self.places: dict[str, list[int]] = {}
        # What each readable record that claims an event has it counted as.
        self.claims: list[Worth | None] = []
        # Which readable record claims each event, by the digest of its identity.
        self.claimants: dict[bytes, int] = {}
        self.claimed: dict[int, Claimed] = {}  # The same events, by month.
        self.commands: dict[Key, tuple[Command, Place]] = {}
        self.targets: set[Key] = set()  # What voids among them take back.
        # The earliest instant of each channel that records which are in time are about.
        self.oldest: dict[str, int] = {}
        self.events_claimed = 0
        self.not_claimed: set[Key] = set()
        self.not_commands: set[Key] = set()  # Claimed beside events that have their identity.
        # Events of this batch that could not be counted without more ado.
        self.special: set[Key] = set()
        self.remembered: set[str] = set()  # Channels that got a row with this batch.
        self.commands_before: Mapping[str, int] = {}  # How many commands each channel had …
        self.commands_read: dict[str, bytes] = {}  # … and their identities, where they are known.
        self.in_memory: set[str] = set()  # Channels whose accounts were there before.
        self._aside: dict[str, Account] = {}  # Accounts of other groups that stay in memory.
        self.promised = 0  # Room in memory, for some of them.
        # What is to be written of accounts, and told; they themselves may be gone by then.
        self.ledger = ledger_store.Ledger()
        self.changes = account_store.Changes(catalog)
        self.drafts: list[Draft] = []
        self._receipt = Receipt()
        self.originals: dict[Place, Record] = {}  # Of records that waited, or were looked for.
        self.waited: dict[Key, set[int]] = {}  # The months of events that waited.
        # The number of a partition in its topic, and the topic, by the number in the books.
        self.partitions = {part.claim.number: part.claim.partition.partition for part in slices}
        self.topics = {part.claim.number: part.claim.partition.topic for part in slices}

    @property
    def concerned(self) -> KeysView[str]:
        """The channels that records which are in time are about."""
        return self.oldest.keys()

    @property
    def deciding(self) -> set[str]:
        """The channels about which commands are to be decided."""
        return {channel for channel, _ in self.commands}

    @property
    def has_copies(self) -> bool:
        """Say whether other records hold identities of its events."""
        return self.events_claimed < len(self.claimants)

    @property
    def intake(self) -> Intake:
        """The batch at work, once its transaction has begun."""
        assert self.taking is not None
        return self.taking

    def groups(self, channels_each: int) -> Iterator[tuple[set[str], Sequence[int]]]:
        """Group the readable records by channel, about so many channels at a time; gives the places
        of each group, channel by channel.

        Channels have nothing to do with each other, so their order among each other does not
        matter. Only with clocks of their own, all records stay in theirs.
        """
        if self.intake.follows_records:
            yield set(self.places), range(len(self.readable))
            return
        channels = list(self.places)
        # All of one size: each group has its statements, and a few left over would pay for theirs.
        groups = max(1, round(len(channels) / channels_each))
        for number in range(groups):
            first, end = (n * len(channels) // groups for n in (number, number + 1))
            group = channels[first:end]
            yield set(group), list(chain.from_iterable([self.places[name] for name in group]))

    def note_read(self, record: Record) -> None:
        """Count a record with its partition: mostly that of the one before."""
        read, clock = self._reading, record.clock
        if read is None or read.position != record.position:
            read = self.read.get(record.position)
            if read is None:
                read = self.read[record.position] = Read(record.position, clock)
            self._reading = read
        read.records += 1
        if clock < read.earliest:
            read.earliest = clock
        elif clock > read.latest:
            read.latest = clock

    @property
    def accounts(self) -> dict[str, Account]:
        """The accounts of this batch that are still in memory."""
        return self._aside | self.intake.accounts

    def set_accounts_aside(self, promise: Callable[[int], bool]) -> None:
        """Make room for the accounts of another group; those that were in memory before stay, and
        of the others as many as are promised room.
        """
        for channel, account in self.intake.accounts.items():
            if channel in self.in_memory:
                self._aside[channel] = account
            elif promise(account.bytes_held):
                self._aside[channel] = account
                self.promised += account.bytes_held
        self.intake.accounts.clear()

    def sum_up(self) -> None:
        """Sum up what was noted of the accounts at work, and let go of it."""
        receipt, effects = self._receipt, self.intake.effects
        booked, returned = dict[tuple[str, str], int](), dict[tuple[str, str], int]()
        for _, (product, _, fill, quantity, _), _ in effects.entries:
            side = booked if quantity > 0 else returned
            key = (product, fill.source)
            side[key] = side.get(key, 0) + abs(quantity)
        receipt.booked.update(booked)
        receipt.returned.update(returned)
        for _, happening, _ in effects.happenings:
            receipt.notices[happening.kind] += 1
        for noted in (effects.entries, effects.happenings, effects.closings, effects.touched):
            noted.clear()

    def keys(self) -> Iterator[Key]:
        """List the events that are claimed."""
        for claimed in self.claimed.values():
            for channel, digests in claimed.digests.items():
                for digest in digests:
                    yield channel, digest

    def met(self) -> set[int]:
        """List the readable records that claim events of which something was known before: mostly
        none.
        """
        met = chain(self.intake.identities, self.not_claimed)
        return {self.claimants[digest] for _, digest in met if digest in self.claimants}

    def recall(self, key: Key, *, before: int) -> None:
        """Make an event known by its identity that came before in this batch and was counted
        without more ado.
        """
        place = self.claimants.get(key[1], before)
        if place >= before or key in self.special or key in self.intake.identities:
            return
        message, worth = self.messages[place], self.claims[place]
        assert isinstance(message, Count | Reading)
        assert worth is not None
        self.intake.identities[key] = Identity(
            message, message.content, self.readable[place].place, "applied", message.at,
            message.product, worth.kind, worth.quantity, worth.messages,
            is_countable=isinstance(message, Count),
        )  # fmt: skip

    def place_of(self, key: Key) -> Place | None:
        """Tell for which record of this batch an identity was claimed."""
        if key[1] in self.claimants:
            return self.readable[self.claimants[key[1]]].place
        return self.commands[key][1] if key in self.commands else None

    def is_as_claimed(self, key: Key, identity: Identity) -> bool:
        """Say whether the record of an event stands as it was written when it was claimed."""
        claimant = self.claimants.get(key[1])
        worth = None if claimant is None else self.claims[claimant]
        return (
            worth is not None
            and identity.state != "parked"
            and not identity.is_late
            and identity.place == self.place_of(key)
            and (not identity.kind or identity.quantity == worth.quantity)
        )

    def month_of(self, key: Key) -> int:
        """Tell in which month an event is claimed."""
        return event_store.month_of(self.messages[self.claimants[key[1]]].at)

    def months_of(self, key: Key) -> set[int]:
        """Tell in which months the record of an event may stand that is to be forgotten."""
        months = {self.month_of(key)} if key[1] in self.claimants else set()
        return months | self.waited.get(key, set())

    def waiting(self, parked: Parked) -> parked_store.Waiting:
        """Write a record that waits, with its original bytes."""
        record = self._record_at(parked.arrival.place, parked.arrival.message.channel)
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
        found = []
        for record in self.unreadable:
            assert isinstance(record.found, Rejected)
            reason, detail = record.found.reason, record.found.detail
            found.append(ledger_store.Reject(record.place, None, reason, detail, was_parked=False))
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
        record = self._record_at(reject.place, reject.channel)
        added = (
            ("lotmeter-reason", reject.reason.encode()),
            ("lotmeter-detail", reject.detail.encode()),
            ("lotmeter-topic", record.topic.encode()),
            ("lotmeter-partition", str(self.partitions[record.position]).encode()),
            ("lotmeter-offset", str(record.offset).encode()),
        )
        return Draft("dead_letters", record.key, record.value, (*record.headers, *added))

    def count(self) -> None:
        """Count what became of the offsets of each partition: what nothing else is said of was
        counted without more ado.
        """
        self.counts = {number: Counter[str]() for number in self.partitions}
        for record in self.unreadable:
            self.counts[record.position]["rejected"] += 1
        for outcome in self.intake.effects.outcomes:
            if not outcome.was_parked:
                self.counts[outcome.arrival.place.partition][outcome.kind] += 1
        for number, read in self.read.items():
            self.counts[number]["applied"] += read.records - self.counts[number].total()

    def account_for(self) -> list[tuple[int, ...]]:
        """Write down what became of the offsets of each slice."""
        return [
            (
                part.claim.number,
                part.from_offset,
                part.to_offset,
                part.claim.epoch,
                *(
                    self.counts[part.claim.number][kind]
                    for kind in ("applied", "duplicate", "parked", "rejected")
                ),
            )
            for part in self.slices
        ]

    def receipt(self) -> Receipt:
        """Sum up the batch."""
        receipt, effects = self._receipt, self.intake.effects
        for part in self.slices:
            counts = self.counts[part.claim.number]
            for kind, records in counts.items():
                receipt.outcomes[part.claim.partition.topic, kind] += records
            receipt.rejects_by_position[part.claim.number] += counts["rejected"]
        for reject in self.rejects():
            receipt.rejected[reject.reason] += 1
        for outcome in effects.outcomes:
            receipt.late += outcome.is_late
            if outcome.was_parked:
                receipt.taken_up[outcome.kind] += 1
        return receipt

    def _record_at(self, place: Place, channel: str | None) -> Record:
        if place in self.originals:
            return self.originals[place]
        # A batch is large, and few of its records are looked for: only those it could be.
        among = self.unreadable
        if channel is not None:
            among = [self.readable[number] for number in self.places[channel]]
        self.originals.update((record.place, record) for record in among)
        return self.originals[place]
