"""The books of a scenario by the pure domain alone: no database, everything within reach."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from consumer import simulate
from consumer.envelopes import instant_from
from consumer.readers import decoder_for
from metering import statements
from metering.accounts import Account
from metering.catalog import Catalog, shipped_catalog
from metering.errors import Rejected
from metering.intake import Arrival, Effects, Intake, Message, Place
from metering.periods import moment_of
from tests.builders import Line

EFFECTS_THAT_ADD_UP = ("outcomes", "entries", "happenings", "closings")


class MemoryMeter:
    """Takes lines in as `simulate` does, and answers with its document."""

    def __init__(self, catalog: Catalog | None = None) -> None:
        self.catalog = catalog or shipped_catalog()
        self.decode = decoder_for(self.catalog, commands_topic=simulate.COMMANDS)
        self.taking = Intake(self.catalog)
        self.effects = Effects()
        self.clock = 0
        self.read = 0
        self.unreadable: Counter[str] = Counter()

    @property
    def accounts(self) -> dict[str, Account]:
        return self.taking.accounts

    def take(self, lines: Iterable[Line]) -> None:
        """Take lines in one after the other, what is due by their clocks before each."""
        for line in lines:
            arrival = self._arrival(line)
            if arrival is not None:
                self.taking.catch_up(arrival.message.channel, arrival.clock)
                self.taking.take(arrival)
        self._settle()

    def take_batch(self, lines: Sequence[Line]) -> None:
        """Take lines in as one batch of a consumer: what is due happens by the clock of its end."""
        arrivals = [arrival for line in lines if (arrival := self._arrival(line)) is not None]
        self._begin(due_clock=self.clock)
        for arrival in arrivals:
            account = self.accounts.get(arrival.message.channel)
            if account is not None and self.taking.is_behind(account):
                self.taking.catch_up(account.channel, arrival.clock)
            self.taking.take(arrival)
        self._settle()
        self._begin()

    def wait_until(self, as_of: str) -> None:
        """Let the clock move on, and happen what is due by then."""
        self.clock = max(self.clock, _instant(as_of))
        for channel in list(self.accounts):
            self.taking.catch_up(channel, self.clock)
        for waiting in list(self.taking.parked.values()):
            for parked in list(waiting.values()):
                self.taking.expire(parked, self.clock)
        self._settle()

    def document(self) -> dict[str, Any]:
        """Write the books as they stand."""
        self._collect()
        counted = Counter(outcome.kind for outcome in self.effects.outcomes)
        rejected = self.unreadable + Counter(
            outcome.reason for outcome in self.effects.outcomes if outcome.kind == "rejected"
        )
        return {
            "as_of": moment_of(self.clock).isoformat().replace("+00:00", "Z"),
            "outcomes": {
                "applied": counted["applied"],
                "duplicate": counted["duplicate"],
                "late": sum(outcome.is_late for outcome in self.effects.outcomes),
                "parked": sum(map(len, self.taking.parked.values())),
                "rejected": dict(rejected),
            },
            "channels": {
                channel: self._written(account) for channel, account in self.accounts.items()
            },
        }

    def _arrival(self, line: Line) -> Arrival | None:
        read = simulate._line(json.dumps(line))
        [clock] = simulate._clocks([read])
        self.clock = max(self.clock, clock)
        self.read += 1
        try:
            message: Message = self.decode(read.topic, read.value, ())
        except Rejected as rejected:
            self.unreadable[rejected.reason] += 1
            return None
        return Arrival(Place(0, self.read), self.clock, message)

    def _settle(self) -> None:
        for channel in self.taking.effects.touched & self.accounts.keys():
            self.taking.settle(self.accounts[channel], None)

    def _begin(self, *, due_clock: int | None = None) -> None:
        """Begin another batch on the same books."""
        self._collect()
        before = self.taking
        self.taking = Intake(self.catalog, due_clock=due_clock, closing_clock=due_clock)
        self.taking.accounts = before.accounts
        self.taking.identities = before.identities
        self.taking.parked = before.parked

    def _collect(self) -> None:
        for name in EFFECTS_THAT_ADD_UP:
            getattr(self.effects, name).extend(getattr(self.taking.effects, name))
            getattr(self.taking.effects, name).clear()

    def _written(self, account: Account) -> dict[str, Any]:
        today = account.day_of(self.clock)
        closed = [
            closing.document
            for closing in self.effects.closings
            if closing.channel == account.channel
        ]
        notices = [
            {
                "kind": happening.kind,
                "product": happening.product,
                "on": happening.on.isoformat(),
                "detail": happening.detail,
            }
            for channel, happening, _ in self.effects.happenings
            if channel == account.channel
        ]
        return {
            "cycles": [*closed, *statements.open_cycles(account, self.catalog, today=today)],
            "lots": statements.lots(account, today=today),
            "reservations": statements.reservations(account, today=today),
            "notices": sorted(notices, key=_notice_order),
        }


def simulate_in_memory(lines: Iterable[Line], as_of: str) -> dict[str, Any]:
    """Give the document of `simulate` for some lines."""
    meter = MemoryMeter()
    meter.take(lines)
    meter.wait_until(as_of)
    return meter.document()


def _instant(text: str) -> int:
    instant = instant_from(text)
    assert instant is not None
    return instant


def _notice_order(notice: dict[str, Any]) -> tuple[str, str, str, str]:
    detail = json.dumps(notice["detail"], sort_keys=True)
    return notice["on"], notice["kind"], notice["product"] or "", detail
