"""What the back office can ask: an instruction about a channel or a lot. If one exists, it is
valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date


@dataclass(frozen=True, slots=True)
class Register:
    """Take a channel into the books."""

    plan: str
    time_zone: str
    billing_day: int  # 1 to 27, or periods.END_OF_MONTH.
    trial_ends_on: date | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Give a channel another plan, billing day or end of trial; None leaves a value as it is."""

    plan: str | None = None
    billing_day: int | None = None
    trial_ends_on: date | None = None


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Set the channel's own limit of a product, or remove it."""

    product: str
    limit: int | None  # Units.


@dataclass(frozen=True, slots=True)
class Purchase:
    """Buy a lot that is valid from the day of the command."""

    lot: str
    product: str
    quantity: int  # Units a month; of PU all units.
    renew: bool = True


@dataclass(frozen=True, slots=True)
class Schedule:
    """Reserve a lot that is bought on the next billing date."""

    lot: str
    product: str
    quantity: int
    renew: bool = True


@dataclass(frozen=True, slots=True)
class ChangeReservation:
    """Change what a reservation will buy; None leaves a value as it is."""

    lot: str
    quantity: int | None = None
    renew: bool | None = None


@dataclass(frozen=True, slots=True)
class CancelReservation:
    """Take a reservation back."""

    lot: str


@dataclass(frozen=True, slots=True)
class SetRenewal:
    """Say whether a lot is renewed when it ends."""

    lot: str
    renew: bool


@dataclass(frozen=True, slots=True)
class Refund:
    """Give a lot back that nothing was deducted from."""

    lot: str


Order = (
    Register
    | Change
    | SetLimit
    | Purchase
    | Schedule
    | ChangeReservation
    | CancelReservation
    | SetRenewal
    | Refund
)


# What each order is called in messages, by how the books call it.
TYPES = {
    "Register": "channel.registered",
    "Change": "channel.changed",
    "SetLimit": "limit.set",
    "Purchase": "lot.purchased",
    "Schedule": "lot.scheduled",
    "ChangeReservation": "reservation.changed",
    "CancelReservation": "reservation.cancelled",
    "SetRenewal": "lot.renewal_set",
    "Refund": "lot.refunded",
}


@dataclass(slots=True)
class Command:
    """An order with who gave it and when."""

    channel: str
    digest: bytes  # Of the identity.
    content: bytes  # Of the content, to tell a duplicate from a conflict.
    at: int  # An instant.
    command_id: str  # As the sender wrote it: the answer names it.
    order: Order
