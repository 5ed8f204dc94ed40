"""Take records in, one after the other: admit, claim, count, decide, take back, park. Pure: values
in, effects out.

What the database knows of the channels and identities concerned is put in before; what changed is
read off after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from metering import booked, lifecycle, notices, settlement, statements
from metering.commands import Command, Register
from metering.errors import Refused, Rejected
from metering.events import Count, Reading, Void
from metering.lifecycle import Happening
from metering.periods import HOUR, ONE_DAY, day_of
from metering.quantities import quantity_of
from metering.settlement import Entry
from metering.tallies import Counts, Readings, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from metering.accounts import Account
    from metering.catalog import Catalog
    from metering.events import Tariff, Worth

Message = Count | Reading | Void | Command
Headers = tuple[tuple[str, bytes | None], ...]

# Records that come an hour or two late, as many do after midnight, find the day before.
HELD_MICROSECONDS: Final = 2 * HOUR


class Place(NamedTuple):
    """Where a record was read: the number of its partition in the books, and its offset there."""

    partition: int
    offset: int


@dataclass(slots=True, init=False)
class Record:
    """One record of a topic, and what it says: an event, a command, or why it can be neither."""

    position: int  # The number of its partition in the books.
    offset: int
    clock: int  # The instant at which it arrived.
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    found: Message | Rejected

    def __init__(
        self, position: int, offset: int, clock: int, topic: str, key: bytes | None,
        value: bytes | None, headers: Headers, found: Message | Rejected,
    ) -> None:  # fmt: skip
        # Written out as that of an event is.
        self.position, self.offset, self.clock, self.topic = position, offset, clock, topic
        self.key, self.value, self.headers, self.found = key, value, headers, found

    @property
    def place(self) -> Place:
        """Where it was read."""
        return Place(self.position, self.offset)


class Arrival(NamedTuple):
    """One record that could be read."""

    place: Place
    clock: int  # The instant at which it arrived.
    message: Message


@dataclass(slots=True)
class Identity:
    """What is known of a record that was taken in: it stands for the event from then on."""

    message: Message | None  # None where only the books still know it: nothing can take it back.
    content: bytes
    place: Place
    state: Literal["applied", "parked", "voided"]
    at: int = 0
    product: str = ""
    kind: str = ""
    quantity: int = 0
    messages: int = 0
    counts_on: date | None = None  # The day it counts on; None: that of its time, or none at all.
    is_late: bool = False
    is_countable: bool = False  # A count or cost event: it can be taken back.


@dataclass(slots=True)
class Parked:
    """A record that waits for its channel, or a void that waits for its event."""

    arrival: Arrival
    waits_for: bytes  # Digest of the event; empty where it waits for the channel.


class Outcome(NamedTuple):
    """What became of a record."""

    arrival: Arrival
    kind: Literal["applied", "duplicate", "parked", "rejected"]
    reason: str = ""
    detail: str = ""
    is_late: bool = False
    was_parked: bool = False


class Closing(NamedTuple):
    """A cycle that closed, as it will stand for ever."""

    channel: str
    starts_on: date
    ends_on: date
    document: dict[str, Any]
    statement: dict[str, Any]  # The same for invoicing, with the plan and the lots.
    clock: int


@dataclass(slots=True)
class Effects:
    """What a batch did, for the database to keep."""

    outcomes: list[Outcome] = field(default_factory=list)
    claimed: set[tuple[str, bytes]] = field(default_factory=set)
    released: set[tuple[str, bytes]] = field(default_factory=set)
    changed: set[tuple[str, bytes]] = field(default_factory=set)
    parked: list[tuple[str, Parked]] = field(default_factory=list)
    unparked: list[tuple[str, bytes]] = field(default_factory=list)
    answers: dict[bytes, str] = field(default_factory=dict)  # Refusals, by digest of the command.
    entries: list[tuple[str, Entry, Place | None]] = field(default_factory=list)
    happenings: list[tuple[str, Happening, date]] = field(default_factory=list)
    closings: list[Closing] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)


class Intake:
    """One batch at work. `accounts` holds the registered channels that are concerned.

    What is due happens by `due_clock`, and cycles close by `closing_clock`. Without them the clock
    of each record
    decides, and thresholds are looked at after each.
    """

    def __init__(
        self, catalog: Catalog, *, due_clock: int | None = None, closing_clock: int | None = None
    ) -> None:
        self.catalog = catalog
        self._due_clock = due_clock
        self._closing_clock = closing_clock
        self.accounts: dict[str, Account] = {}
        self.identities: dict[tuple[str, bytes], Identity] = {}
        self.parked: dict[
            str, dict[bytes, Parked]
        ] = {}  # By channel and identity, in order of arrival.
        self.effects = Effects()
        self._priced: dict[tuple[Tariff, date], int] = {}
        self._late: dict[str, dict[tuple[str, date], list[Callable[[], None]]]] = {}

    @property
    def follows_records(self) -> bool:
        """Say whether the clock of each record decides what is due."""
        return self._due_clock is None

    def is_behind(self, account: Account) -> bool:
        """Say whether a new day has begun since the account was last caught up."""
        assert self._due_clock is not None
        return account.settled_on is None or account.settled_on < account.day_of(self._due_clock)

    def put_parked(self, parked: Parked) -> None:
        """Put in a record that waits; they are put in the order in which they came."""
        message = parked.arrival.message
        self.parked.setdefault(message.channel, {})[message.digest] = parked
        self.identities[message.channel, message.digest] = Identity(
            message, message.content, parked.arrival.place, "parked", message.at
        )

    def needed_from(self, account: Account, oldest: int | None) -> date:
        """Say from which day on an account is needed: `oldest` is the earliest instant that its
        records in this batch are about, None if there are none.
        """
        clock, closing_clock = self._due_clock, self._closing_clock
        if clock is None or closing_clock is None or account.settled_on is None:
            return account.open_from
        if account.closes_at(self.catalog) <= closing_clock:
            return account.open_from
        earliest = (clock if oldest is None else min(clock, oldest)) - HELD_MICROSECONDS
        return max(account.open_from, min(account.settled_on, account.day_of(earliest)))

    # One record

    def take(self, arrival: Arrival) -> Outcome:
        """Take one record in, at its clock. What was due by then must have been caught up with."""
        channel = arrival.message.channel
        if channel in self.parked:
            self._expire_parked(channel, arrival.clock)
        try:
            self._admit(arrival)
            outcome = self._place(arrival)
        except Rejected as rejected:
            outcome = Outcome(arrival, "rejected", rejected.reason, rejected.detail)
        self.effects.outcomes.append(outcome)
        if outcome.kind == "applied":
            self._look_after(arrival)
            self._take_up_voids(channel, arrival.message.digest, arrival.clock)
            if isinstance(arrival.message, Command) and isinstance(arrival.message.order, Register):
                self._take_up_all(channel, arrival.clock)
        elif outcome.kind == "parked":
            # A void is an identity too: what names it can be answered now.
            self._take_up_voids(channel, arrival.message.digest, arrival.clock)
        return outcome

    def take_plain(self, event: Message, worth: Worth) -> bool:
        """Count an event that is certainly new, where nothing else asks for a closer look.

        Nearly all events go this way; it does what `take` does for them, at a third of its cost.
        `worth` is what it was claimed to be worth.
        """
        channel, at = event.channel, event.at
        account = self.accounts.get(channel)
        if account is None or channel in self.parked:
            return False
        on = day_of(at, account.time_zone)
        assert account.settled_on is not None
        if not account.held_from <= on <= account.settled_on:
            return False
        if type(event) is Count:
            product, tariff = event.product, event.tariff
            kind, quantity, messages = worth
            # Prices may have changed between the day in UTC and the channel's own.
            if tariff is not None and self._pu_of(tariff, on) * event.units != quantity:
                return False
            books = account.books.get(product) or account.books_of(product)
            assert isinstance(books.tallies, Counts)
            books.tallies.add(on, kind, quantity, messages)
            self._grow(account, product, on, quantity)
        elif type(event) is Reading:
            books = account.books_of(event.product)
            assert isinstance(books.tallies, Readings)
            raised = books.tallies.raised(event.person, event.level, on, account.cycle_on(on))
            report = Report(at, event.level)
            books.tallies.report(
                event.person, report, on=on, counts_on=on, open_from=account.open_from
            )
            self._grow(account, event.product, on, quantity_of(raised))
        else:
            return False
        self.effects.touched.add(channel)
        return True

    def _grow(self, account: Account, product: str, on: date, quantity: int) -> None:
        books = account.books[product]
        if books.tip is None and on == account.settled_on:
            go_on(account, self.catalog, product)
        books.grow(on, quantity)

    def _pu_of(self, tariff: Tariff, on: date) -> int:
        """Look up a price as often as there are tariffs and days; -1 where there is none."""
        pu = self._priced.get((tariff, on))
        if pu is None:
            found = self.catalog.pu_of(tariff, on)
            pu = self._priced[tariff, on] = -1 if found is None else found
        return pu

    def _admit(self, arrival: Arrival) -> None:
        message, rules = arrival.message, self.catalog.rules
        if message.at > arrival.clock + rules.ahead:
            raise Rejected("in_future", "its time is too far ahead of the clock")
        if not isinstance(message, Command) and message.at < arrival.clock - rules.horizon:
            raise Rejected("too_old", "its time is more than the horizon ago")

    def _place(self, arrival: Arrival) -> Outcome:
        message = arrival.message
        known = self.identities.get((message.channel, message.digest))
        if known is not None:
            if known.content != message.content or known.at != message.at:
                raise Rejected("conflict", "this id came before with another content")
            return Outcome(arrival, "duplicate")
        return self._apply(arrival)

    def _apply(self, arrival: Arrival) -> Outcome:
        message = arrival.message
        account = self.accounts.get(message.channel)
        if account is None:
            if isinstance(message, Command) and isinstance(message.order, Register):
                self.accounts[message.channel] = lifecycle.open_account(message, message.order)
                self._claim(
                    arrival,
                    Identity(message, message.content, arrival.place, "applied", message.at),
                )
                self.catch_up(message.channel, arrival.clock)
                return Outcome(arrival, "applied")
            return self._park(arrival, waits_for=b"")
        if isinstance(message, Count):
            return self._count(account, arrival, message)
        if isinstance(message, Reading):
            return self._read(account, arrival, message)
        if isinstance(message, Void):
            return self._void(account, arrival, message)
        return self._decide(account, arrival, message)

    def _days(self, account: Account, event: Count | Reading) -> tuple[date, date]:
        """Tell the day of an event, and the open day on which it counts. What comes ahead of its
        day is due when that begins.
        """
        on = account.day_of(event.at)
        if account.settled_on is None or on > account.settled_on:
            account.is_due_known = False
        return on, max(on, account.open_from)

    def _count(self, account: Account, arrival: Arrival, event: Count) -> Outcome:
        on, counts_on = self._days(account, event)
        kind, quantity, messages = "", quantity_of(event.units), 0
        if event.tariff is not None:
            pu = self.catalog.pu_of(event.tariff, on)
            if pu is None:
                raise Rejected("no_price", "no price covers this message on its day")
            kind, quantity, messages = event.tariff.kind, pu * event.units, event.units
        is_late = on < counts_on
        identity = Identity(
            event, event.content, arrival.place, "applied", event.at, event.product,
            kind, quantity, messages, counts_on, is_late, is_countable=True,
        )  # fmt: skip
        tallies = account.books_of(event.product).tallies
        assert isinstance(tallies, Counts)
        if is_late:
            self._put_late(
                account,
                event.product,
                on,
                partial(tallies.add, counts_on, kind, quantity, messages),
            )
        else:
            tallies.add(counts_on, kind, quantity, messages)
            self._grow(account, event.product, counts_on, quantity)
        self._claim(arrival, identity)
        return Outcome(arrival, "applied", is_late=is_late)

    def _read(self, account: Account, arrival: Arrival, event: Reading) -> Outcome:
        on, counts_on = self._days(account, event)
        is_late = on < counts_on
        identity = Identity(
            event, event.content, arrival.place, "applied", event.at, event.product,
            quantity=event.level, counts_on=counts_on, is_late=is_late,
        )  # fmt: skip
        tallies = account.books_of(event.product).tallies
        assert isinstance(tallies, Readings)
        report = partial(
            tallies.report,
            event.person,
            Report(event.at, event.level),
            on=on,
            counts_on=counts_on,
            open_from=account.open_from,
        )
        if is_late:
            self._put_late(account, event.product, on, report)
        else:
            raised = tallies.raised(event.person, event.level, on, account.cycle_on(on))
            report()
            self._grow(account, event.product, on, quantity_of(raised))
        self._claim(arrival, identity)
        return Outcome(arrival, "applied", is_late=is_late)

    def _void(self, account: Account, arrival: Arrival, void: Void) -> Outcome:
        target = self.identities.get((void.channel, void.target))
        if void.target == void.digest:
            raise Rejected("not_voidable", "a void cannot take itself back")
        if target is None:
            return self._park(arrival, waits_for=void.target)
        if target.state == "parked" and isinstance(target.message, Count):
            # It waits for the channel too, and is taken up in its turn.
            return self._park(arrival, waits_for=void.target)
        if not target.is_countable:
            raise Rejected("not_voidable", "only count and cost events can be taken back")
        if target.state == "voided":
            raise Rejected("already_voided", "another void took this event back")
        self._count_late(account, arrival.place)
        counts_on = account.day_of(target.at) if target.counts_on is None else target.counts_on
        if counts_on < account.open_from:
            raise Rejected("cycle_closed", "the cycle in which the event counts is closed")
        account.need(counts_on)
        books = account.books_of(target.product)
        assert isinstance(books.tallies, Counts)
        books.tallies.add(counts_on, target.kind, -target.quantity, -target.messages)
        books.touch(counts_on)
        target.state = "voided"
        self.effects.changed.add((void.channel, void.target))
        self._claim(arrival, Identity(void, void.content, arrival.place, "applied", void.at))
        return Outcome(arrival, "applied")

    def _decide(self, account: Account, arrival: Arrival, command: Command) -> Outcome:
        # Commands are decided against the books as they then stand.
        account.is_due_known = False
        self.settle(account, arrival.place)
        self._claim(
            arrival, Identity(command, command.content, arrival.place, "applied", command.at)
        )
        try:
            happenings = lifecycle.decide(account, self.catalog, command)
        except Refused as refused:
            self.effects.answers[command.digest] = refused.reason
            detail = {"reason": refused.reason, "id": command.command_id}
            if (lot := getattr(command.order, "lot", None)) is not None:
                detail["lot"] = lot
            product = lifecycle.product_named(account, command.order)
            happenings = [Happening("command_refused", product, account.day_of(command.at), detail)]
        self._tell(account, happenings, account.day_of(arrival.clock))
        # What the command made due happens at once, as of its own day.
        self.catch_up(command.channel, arrival.clock, place=arrival.place)
        return Outcome(arrival, "applied")

    # Waiting records

    def _park(self, arrival: Arrival, *, waits_for: bytes) -> Outcome:
        message = arrival.message
        parked = Parked(arrival, waits_for)
        self.parked.setdefault(message.channel, {})[message.digest] = parked
        self._claim(
            arrival, Identity(message, message.content, arrival.place, "parked", message.at)
        )
        self.effects.parked.append((message.channel, parked))
        return Outcome(arrival, "parked")

    def _take_up_all(self, channel: str, clock: int) -> None:
        """Take up all that waited for a channel, in the order in which it came."""
        for parked in list(self.parked.get(channel, {}).values()):
            if not parked.waits_for:
                self._take_up(parked, clock)

    def _take_up_voids(self, channel: str, digest: bytes, clock: int) -> None:
        waiting = self.parked.get(channel)
        if waiting and channel in self.accounts:
            for parked in [parked for parked in waiting.values() if parked.waits_for == digest]:
                self._take_up(parked, clock)

    def _take_up(self, parked: Parked, clock: int) -> None:
        message = parked.arrival.message
        if message.digest not in self.parked.get(message.channel, {}):
            return
        self._unpark(message)
        arrival = parked.arrival._replace(clock=clock)
        try:
            outcome = self._apply(arrival)
        except Rejected as rejected:
            outcome = Outcome(arrival, "rejected", rejected.reason, rejected.detail)
        self.effects.outcomes.append(outcome._replace(arrival=parked.arrival, was_parked=True))
        if outcome.kind == "applied":
            self._look_after(arrival)
            self._take_up_voids(message.channel, message.digest, clock)

    def _look_after(self, arrival: Arrival) -> None:
        # With the clock of each record thresholds are looked at after each; else once, after the
        # batch.
        account = self.accounts.get(arrival.message.channel)
        if self._due_clock is None and account is not None:
            self.settle(account, arrival.place)

    def _expire_parked(self, channel: str, clock: int) -> None:
        """Reject what waited until the horizon, by its own time."""
        for parked in list(self.parked.get(channel, {}).values()):
            self.expire(parked, clock)

    def expire(self, parked: Parked, clock: int) -> None:
        """Reject a parked record if it has waited until the horizon."""
        message = parked.arrival.message
        if message.at < clock - self.catalog.rules.horizon:
            self._unpark(message)
            if parked.waits_for:
                reason, detail = "unknown_event", "the event to take back never came"
            else:
                reason, detail = "unknown_channel", "the channel was never registered"
            self.effects.outcomes.append(
                Outcome(parked.arrival, "rejected", reason, detail, was_parked=True)
            )

    def _unpark(self, message: Message) -> None:
        key = (message.channel, message.digest)
        del self.parked[message.channel][message.digest]
        del self.identities[key]
        self.effects.unparked.append(key)
        self.effects.released.add(key)

    def _claim(self, arrival: Arrival, identity: Identity) -> None:
        key = (arrival.message.channel, arrival.message.digest)
        self.identities[key] = identity
        self.effects.claimed.add(key)
        self.effects.touched.add(arrival.message.channel)

    # The clock

    def catch_up(self, channel: str, clock: int, *, place: Place | None = None) -> None:
        """Let everything happen to a channel that is due by the clock, in order and as of its own
        day.
        """
        account = self.accounts.get(channel)
        if account is None:
            return
        today = account.day_of(clock if self._due_clock is None else self._due_clock)
        if account.settled_on is not None:
            today = max(today, account.settled_on)
        while (act := lifecycle.next_act(account, self.catalog, today)) is not None:
            self._tell(account, act(), today)
            account.is_due_known = False
            self.effects.touched.add(channel)
        if account.settled_on != today:
            account.settled_on = today
            account.is_due_known = False
            self.effects.touched.add(channel)
        self.settle(account, place)
        closing_clock = clock if self._closing_clock is None else self._closing_clock
        while account.closes_at(self.catalog) <= closing_clock:
            self._close(account, today, closing_clock)

    def settle(self, account: Account, place: Place | None) -> None:
        """Pour what changed, and tell what people should hear of it."""
        today = account.settled_on
        assert today is not None
        if account.channel in self._late:
            self._count_late(account, place)
        for product, books in list(account.books.items()):
            if books.is_settled(today):
                continue
            self._settle(account, product, place)
            if books.unlooked_from is not None:
                news = notices.look(account, self.catalog, product, today=today)
                self._tell(account, news, today)

    def _put_late(
        self, account: Account, product: str, original_on: date, count: Callable[[], None]
    ) -> None:
        """Keep a late use apart: what it moves is entered with the day of the use."""
        self._late.setdefault(account.channel, {}).setdefault((product, original_on), []).append(
            count
        )
        self.effects.touched.add(account.channel)

    def _count_late(self, account: Account, place: Place | None) -> None:
        for (product, original_on), uses in sorted(
            self._late.pop(account.channel, {}).items(), key=itemgetter(0)
        ):
            self._settle(account, product, place)
            for count in uses:
                count()
            account.books[product].touch(account.open_from)
            self._settle(account, product, place, original_on)

    def _settle(
        self, account: Account, product: str, place: Place | None, original_on: date | None = None
    ) -> None:
        today = account.settled_on
        assert today is not None
        entries = settlement.settle(
            account, self.catalog, product, today=today, original_on=original_on
        )
        if entries:
            settlement.book(account, entries)
            self.effects.entries += [(account.channel, entry, place) for entry in entries]
            self.effects.touched.add(account.channel)

    def _close(self, account: Account, today: date, clock: int) -> None:
        start, following = account.open_from, account.cycle_after(account.open_from)
        account.need(start)
        document = statements.cycle(account, self.catalog, start, today=today, is_closed=True)
        ends_on = following - ONE_DAY
        statement = {
            **document,
            "plan": account.plan_on(ends_on),
            "lots": statements.lots_of_cycle(account, start, ends_on),
        }
        self.effects.closings.append(
            Closing(account.channel, start, ends_on, document, statement, clock)
        )
        account.close_days(following)
        for product in account.books:
            settlement.freeze(account, product, until=following)
        account.open_from = following
        account.is_due_known = False
        account.forget_told(following)
        self.effects.touched.add(account.channel)

    def _tell(self, account: Account, happenings: Iterable[Happening], today: date) -> None:
        self.effects.happenings += [(account.channel, happening, today) for happening in happenings]


def go_on(account: Account, catalog: Catalog, product: str) -> None:
    """Make the newest day of books that were loaded ready to take more usage on top, if it can."""
    books = account.books[product]
    books.tip = booked.tip_as_booked(account, catalog, product)
    if books.tip is not None:
        books.quiet = notices.growth_to_next(account, catalog, product, books.tip.pour) - 1
