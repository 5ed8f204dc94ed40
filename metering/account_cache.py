"""Accounts that stay in memory between batches, as many as there is room for."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from metering.accounts import Account

# Accounts take so much at most, and with the batches at work so much: those of a backlog are large,
# and are about channels that do not come back before all others.
BYTES_MAX, ALL_BYTES_MAX = 72 << 20, 110 << 20

# What a batch takes in memory for each record, and each channel: of that the rows that change.
RECORD_BYTES, CHANNEL_BYTES = 1_000, 10_000

# An account that had nothing to do with so many records makes room for another.
IDLE_RECORDS = 250_000

# An account with more days is loaded anew: few batches need them.
DAYS_MAX = 3


class _Kept:
    __slots__ = ("account", "bytes", "used_at")

    def __init__(self, account: Account, size: int, used_at: int) -> None:
        self.account = account
        self.bytes = size
        self.used_at = used_at  # How many records were read by then.


class AccountCache:
    """Accounts as they stood after the last batch. Whoever takes one says which version holds."""

    def __init__(self, *, lanes: int = 1) -> None:
        self._lanes = lanes  # So many batches are at work at once.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # The one longest not used comes first.
        self._bytes = self._promised = 0
        self._bytes_max = BYTES_MAX
        self._records = 0  # How many were read.

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes_held(self) -> int:
        """What they take, roughly."""
        return self._bytes

    def make_room(self, *, records: int, channels: int) -> None:
        """Make room for a batch, and for others of its size."""
        self._records += records
        batch = records * RECORD_BYTES + channels * CHANNEL_BYTES
        self._bytes_max = min(BYTES_MAX, ALL_BYTES_MAX - self._lanes * batch)
        while self._kept and self._bytes > self._bytes_max:
            self.forget([next(iter(self._kept))])

    def promise(self, size: int) -> bool:
        """Promise room to an account that a batch has loaded and keeps, if there is some: batches
        are worked on at once, and each would take all of it.
        """
        if self._bytes + self._promised + size > self._bytes_max:
            return False
        self._promised += size
        return True

    def take_back(self, promised: int) -> None:
        """Take back what was promised to a batch that has ended."""
        self._promised -= promised

    def take(self, channel: str, version: int) -> Account | None:
        """Take an account out to work on it; None if it is not here, or was changed elsewhere."""
        kept = self._kept.pop(channel, None)
        if kept is None:
            return None
        self._bytes -= kept.bytes
        return kept.account if kept.account.version == version else None

    def commands_of(self, versions: Mapping[str, int]) -> dict[str, bytes]:
        """Tell the identities of the commands of channels, of those whose account is here and has
        this version: whoever records a command changes it.
        """
        kept = {name: self._kept[name].account for name in versions.keys() & self._kept.keys()}
        return {
            name: account.commands
            for name, account in kept.items()
            if account.commands is not None and account.version == versions[name]
        }

    def put(self, accounts: Mapping[str, Account], *, loaded: Collection[str]) -> None:
        """Put the accounts of a batch back, and those that were loaded for it as far as there is
        room.

        They do not drive out others that are in use: where each batch is about all channels, and
        memory has room for half of them, half of them are then always here, and not none.
        """
        for channel, account in accounts.items():
            if channel not in loaded:
                self._put(channel, account)
        for channel in loaded:
            self._put(channel, accounts[channel])

    def forget(self, channels: Iterable[str]) -> None:
        """Let go of accounts: nobody knows how they stand."""
        for channel in channels:
            self.take(channel, -1)

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()
        self._bytes = 0

    def _put(self, channel: str, account: Account) -> None:
        if account.days_held > DAYS_MAX:
            return
        size = account.bytes_held
        while self._bytes + size > self._bytes_max:
            oldest = next(iter(self._kept), None)
            if oldest is None or self._kept[oldest].used_at > self._records - IDLE_RECORDS:
                return
            self.forget([oldest])
        self._kept[channel] = _Kept(account, size, self._records)
        self._bytes += size
