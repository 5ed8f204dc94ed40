"""Usage events: one use, as a producer reported it. If one exists, it is valid."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

DIGEST_BYTES: Final = 16

_BLANK: Final = blake2b(digest_size=DIGEST_BYTES)


class Tariff(NamedTuple):
    """What decides the PU price of a message."""

    kind: str
    country: str = ""  # Of a global SMS.
    segments: int = 0  # Of a global SMS: those of one message.
    free: bool = (
        False  # Sent through the customer's own account: recorded and counted, not charged.
    )


# There is one of these for each event. Made by an `__init__` that is written out, and compiled, it
# takes 0.03 microseconds instead of 0.2.


@dataclass(slots=True, init=False)
class Count:
    """Usage that adds up: workflow actions, marketing messages, messages that cost PU."""

    channel: str
    digest: bytes  # Of the identity.
    content: bytes  # Of the content, to tell a duplicate from a conflict.
    at: int  # An instant.
    product: str
    units: int  # Actions or messages.
    tariff: Tariff | None  # Of messages only.

    def __init__(
        self, channel: str, digest: bytes, content: bytes, at: int, product: str, units: int,
        tariff: Tariff | None,
    ) -> None:  # fmt: skip
        self.channel, self.digest, self.content, self.at = channel, digest, content, at
        self.product, self.units, self.tariff = product, units, tariff


@dataclass(slots=True, init=False)
class Reading:
    """The absolute level of something: how many contacts are stored, whether a person holds a
    seat.
    """

    channel: str
    digest: bytes
    content: bytes
    at: int
    product: str
    person: bytes  # Digest of who holds the seat; empty for contacts.
    level: int  # Contacts; of a seat 1 assigned, 0 released.

    def __init__(
        self, channel: str, digest: bytes, content: bytes, at: int, product: str, person: bytes,
        level: int,
    ) -> None:  # fmt: skip
        self.channel, self.digest, self.content, self.at = channel, digest, content, at
        self.product, self.person, self.level = product, person, level


@dataclass(slots=True)
class Void:
    """Takes an earlier event back."""

    channel: str
    digest: bytes
    content: bytes
    at: int
    target: bytes  # Digest of the identity that is taken back.


Usage = Count | Reading | Void


class Meaning(NamedTuple):
    """What the data of an event says: so many units of a product, or a level that somebody has."""

    product: str
    content: bytes  # Digest of the type and the data.
    number: int  # Units, or the level.
    tariff: Tariff | None = None  # Of messages only.
    person: bytes | None = None  # Of levels: who holds the seat, empty for contacts.


def said(channel: str, digest: bytes, at: int, meaning: Meaning) -> Count | Reading:
    """Put an event together of who said it and when, and what it means."""
    if meaning.person is None:
        return Count(
            channel, digest, meaning.content, at, meaning.product, meaning.number, meaning.tariff
        )
    return Reading(
        channel, digest, meaning.content, at, meaning.product, meaning.person, meaning.number
    )


class Worth(NamedTuple):
    """What an event is counted as, if it is applied on its own day."""

    kind: str  # Of a message.
    quantity: int
    messages: int


def digest_of(*parts: str) -> bytes:
    """Digest a tuple of texts; no two different tuples share their bytes."""
    # No text of a record holds a NUL. Copying a blank digest is cheaper than making one.
    digest = _BLANK.copy()
    digest.update("\0".join(parts).encode())
    return digest.digest()
