"""Usage events: one use, as a producer reported it. If one exists, it is valid."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

DIGEST_BYTES = 16

_BLANK = blake2b(digest_size=DIGEST_BYTES)


class Tariff(NamedTuple):
    """What decides the PU price of a message."""

    kind: str
    country: str = ""  # Of a global SMS.
    segments: int = 0  # Of a global SMS: those of one message.
    free: bool = (
        False  # Sent through the customer's own account: recorded and counted, not charged.
    )


class Count(NamedTuple):
    """Usage that adds up: workflow actions, marketing messages, messages that cost PU."""

    channel: str
    digest: bytes  # Of the identity.
    content: bytes  # Of the content, to tell a duplicate from a conflict.
    at: int  # An instant.
    product: str
    units: int  # Actions or messages.
    tariff: Tariff | None  # Of messages only.


class Reading(NamedTuple):
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


class Void(NamedTuple):
    """Takes an earlier event back."""

    channel: str
    digest: bytes
    content: bytes
    at: int
    target: bytes  # Digest of the identity that is taken back.


Usage = Count | Reading | Void


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
