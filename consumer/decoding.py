"""What a record says: the one place where bytes become events and commands, or a reason why not.

Each type has a reader that turns its `data` into what it means. The content is digested as it was
understood: two ways of writing one thing have one digest.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

from consumer.envelopes import (
    Fields,
    Headers,
    attributes_of,
    day_in,
    flag_in,
    instant_from,
    one_of,
    text_in,
    whole_in,
)
from metering.catalog import GLOBAL_SMS, PRODUCTS
from metering.commands import (
    CancelReservation,
    Change,
    ChangeReservation,
    Command,
    Order,
    Purchase,
    Refund,
    Register,
    Schedule,
    SetLimit,
    SetRenewal,
)
from metering.errors import Rejected
from metering.events import (
    DIGEST_BYTES,
    Count,
    Meaning,
    Reading,
    Tariff,
    Void,
    digest_of,
    said,
)
from metering.periods import END_OF_MONTH, zone_named
from metering.segments import segments_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from metering.catalog import Catalog

__all__ = ["Vocabulary", "decode", "instant_from"]

UNITS_MAX = 10**9
MESSAGES_MAX = 10**6
SEGMENTS_MAX = 255
LIMIT_MAX = 10**12
BILLING_DAY_MAX = 27

# Stands in the names of renewed lots; a lot that somebody names may not look like one.
RENEWAL_MARK = "~"

# Messages go through the customer's own account there and cost nothing here.
FREE_PROVIDER = "twilio"

_COUNTED = {
    "workflow.executed": ("workflow", "actions"),
    "marketing.sent": ("marketing", "messages"),
}
_SEATS = {"basic": "basic_seat", "operator": "operator_seat"}
_BLANK_DIGEST = blake2b(digest_size=DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that the catalog knows."""

    plans: frozenset[str]
    products: frozenset[str]
    message_kinds: frozenset[str]  # Those that have a price.
    countries: frozenset[str]  # Those where a global SMS has a price.

    @classmethod
    def of(cls, catalog: Catalog) -> Vocabulary:
        """Collect the names that a catalog knows."""
        return cls(
            plans=frozenset(catalog.plans),
            products=frozenset(PRODUCTS),
            message_kinds=catalog.message_kinds,
            countries=catalog.countries,
        )


# Type, channel, digest of the identity, instant, id: what a record says before its data. A plain
# tuple, as a named one costs as much as parsing a third of the record.
Stamp: TypeAlias = tuple[str, str, bytes, int, str]


Decoded: TypeAlias = Count | Reading | Void | Command
Reader: TypeAlias = "Callable[[Stamp, Fields, Vocabulary], Decoded]"
OrderReader: TypeAlias = "Callable[[Fields, Vocabulary], Order]"


def decode(
    topic_class: str, value: bytes | None, headers: Headers, vocabulary: Vocabulary
) -> Decoded:
    """Decode a record of a topic of `usage`, of `commands` or of `others`. Raises Rejected and
    nothing else.
    """
    attributes = attributes_of(value, headers)
    stamp = _stamp_of(attributes)
    home, reader = _READERS.get(stamp[0], _NOWHERE)
    if reader is None:
        raise Rejected("unknown_type", "type is not one of the documented types")
    data = attributes.get("data")
    if type(data) is not dict:
        raise Rejected("malformed", "data must be a JSON object")
    if home == topic_class:
        return reader(stamp, data, vocabulary)
    try:
        reader(stamp, data, vocabulary)
    except Rejected as rejected:
        # Of the reasons that data can give only this one comes before the topic.
        if rejected.reason == "malformed":
            raise
    raise Rejected("wrong_topic", f"this type belongs on a topic of {home}")


def _stamp_of(attributes: Fields) -> Stamp:
    kind = attributes.get("type")
    if type(kind) is not str or not kind:
        raise Rejected("malformed", "type must be a text that is not empty")
    at = instant_from(attributes.get("time"))
    if at is None:
        raise Rejected("malformed", "time must be an RFC 3339 time with an offset")
    channel, source = text_in(attributes, "subject"), text_in(attributes, "source")
    event_id = text_in(attributes, "id")
    return kind, channel, digest_of(channel, source, event_id), at, event_id


# Usage. What `data` means does not depend on who said it and when, nor does the digest of it: an
# instant is compared beside it.


def _content_digest(parts: str) -> bytes:
    """Digest the parts of a content. They are joined by NUL, which no text of a record holds."""
    digest = _BLANK_DIGEST.copy()
    digest.update(parts.encode())
    return digest.digest()


def meaning_of(kind: str, data: Fields, vocabulary: Vocabulary) -> Meaning:
    """Say what the data of a type that is counted or read off means. Raises Rejected."""
    return _MEANINGS[kind](kind, data, vocabulary)


def _count(kind: str, data: Fields, _: Vocabulary) -> Meaning:
    product, field = _COUNTED[kind]
    units = whole_in(data, field, 1, UNITS_MAX)
    return Meaning(product, _content_digest(f"{kind}\0{units}"), units)


def _message(kind: str, data: Fields, vocabulary: Vocabulary) -> Meaning:
    message_kind = text_in(data, "kind")
    count = whole_in(data, "count", 1, MESSAGES_MAX)
    provider = text_in(data, "provider") if "provider" in data else ""
    is_free = provider == FREE_PROVIDER
    if message_kind == GLOBAL_SMS:
        country, segments = _destination(data, vocabulary, is_free=is_free)
    else:
        country, segments = "", 0
    if message_kind not in vocabulary.message_kinds:
        raise Rejected("no_price", "kind is not in the price list")

    content = f"{kind}\0{message_kind}\0{count}\0{country}\0{segments}\0{provider}"
    tariff = Tariff(message_kind, country, segments, is_free)
    return Meaning("pu", _content_digest(content), count, tariff)


def _destination(data: Fields, vocabulary: Vocabulary, *, is_free: bool) -> tuple[str, int]:
    """Read the country of a global SMS and the segments of one message."""
    country = text_in(data, "country")
    if "segments" in data:
        segments = whole_in(data, "segments", 1, SEGMENTS_MAX)
    else:
        text = data.get("text")
        if type(text) is not str:
            raise Rejected("malformed", "segments or text is required")
        if not text:
            raise Rejected("empty_text", "text must have at least one character")
        segments = segments_of(text)
    if not is_free and country not in vocabulary.countries:
        raise Rejected("no_price", "country is not in the price list")
    return country, segments


def _contacts(kind: str, data: Fields, _: Vocabulary) -> Meaning:
    level = whole_in(data, "count", 0, UNITS_MAX)
    return Meaning("mu", _content_digest(f"{kind}\0{level}"), level, person=b"")


def _seat(kind: str, data: Fields, _: Vocabulary) -> Meaning:
    seat, manager = one_of(_SEATS, data, "seat"), text_in(data, "manager")
    content = _content_digest(f"{kind}\0{seat}\0{manager}")
    level = 1 if kind == "seat.assigned" else 0
    return Meaning(_SEATS[seat], content, level, person=digest_of(manager))


def _usage(stamp: Stamp, data: Fields, vocabulary: Vocabulary) -> Count | Reading:
    kind, channel, digest, at, _id = stamp
    return said(channel, digest, at, meaning_of(kind, data, vocabulary))


def _void(stamp: Stamp, data: Fields, _: Vocabulary) -> Void:
    kind, channel, digest, at, _id = stamp
    source, event_id, reason = text_in(data, "source"), text_in(data, "id"), text_in(data, "reason")
    content = _content_digest(f"{kind}\0{source}\0{event_id}\0{reason}")
    return Void(channel, digest, content, at, digest_of(channel, source, event_id))


# Commands.


def _command(stamp: Stamp, data: Fields, vocabulary: Vocabulary) -> Command:
    kind, channel, digest, at, command_id = stamp
    order = _ORDERS[kind](data, vocabulary)
    # No text is empty, so nothing else is written like None.
    parts = ["" if part is None else str(part) for part in astuple(order)]
    content = _content_digest("\0".join([kind, str(at), *parts]))
    return Command(channel, digest, content, at, command_id, order)


def _register(data: Fields, vocabulary: Vocabulary) -> Register:
    plan = one_of(vocabulary.plans, data, "plan")
    time_zone = text_in(data, "time_zone")
    try:
        zone_named(time_zone)
    except ValueError:
        raise Rejected("malformed", "time_zone must be an IANA name") from None
    trial_ends_on = day_in(data, "trial_ends_on") if "trial_ends_on" in data else None
    if plan == "trial" and trial_ends_on is None:
        raise Rejected("malformed", "trial_ends_on is required with the plan trial")
    return Register(plan, time_zone, _billing_day_in(data), trial_ends_on)


def _change(data: Fields, vocabulary: Vocabulary) -> Change:
    change = Change(
        one_of(vocabulary.plans, data, "plan") if "plan" in data else None,
        _billing_day_in(data) if "billing_day" in data else None,
        day_in(data, "trial_ends_on") if "trial_ends_on" in data else None,
    )
    if change == Change():
        raise Rejected("malformed", "plan, billing_day or trial_ends_on is required")
    return change


def _limit(data: Fields, vocabulary: Vocabulary) -> SetLimit:
    product = one_of(vocabulary.products, data, "product")
    if "limit" in data and data["limit"] is None:
        return SetLimit(product, None)
    return SetLimit(product, whole_in(data, "limit", 0, LIMIT_MAX))


def _purchase(data: Fields, vocabulary: Vocabulary) -> Purchase:
    return Purchase(*_new_lot_in(data, vocabulary))


def _schedule(data: Fields, vocabulary: Vocabulary) -> Schedule:
    return Schedule(*_new_lot_in(data, vocabulary))


def _change_reservation(data: Fields, _: Vocabulary) -> ChangeReservation:
    change = ChangeReservation(
        text_in(data, "lot"),
        _quantity_in(data) if "quantity" in data else None,
        flag_in(data, "renew") if "renew" in data else None,
    )
    if change == ChangeReservation(change.lot):
        raise Rejected("malformed", "quantity or renew is required")
    return change


def _cancel_reservation(data: Fields, _: Vocabulary) -> CancelReservation:
    return CancelReservation(text_in(data, "lot"))


def _renewal(data: Fields, _: Vocabulary) -> SetRenewal:
    return SetRenewal(text_in(data, "lot"), flag_in(data, "renew"))


def _refund(data: Fields, _: Vocabulary) -> Refund:
    return Refund(text_in(data, "lot"))


def _new_lot_in(data: Fields, vocabulary: Vocabulary) -> tuple[str, str, int, bool]:
    lot = text_in(data, "lot")
    if RENEWAL_MARK in lot:
        raise Rejected("malformed", f"lot must not hold {RENEWAL_MARK}")
    product = one_of(vocabulary.products, data, "product")
    renew = flag_in(data, "renew") if "renew" in data else True
    return lot, product, _quantity_in(data), renew


def _quantity_in(data: Fields) -> int:
    # Any integer is understood: whether it is in bounds is for the books to say.
    return whole_in(data, "quantity", -(2**63), 2**63 - 1)


def _billing_day_in(data: Fields) -> int:
    if data.get("billing_day") == "end":
        return END_OF_MONTH
    return whole_in(data, "billing_day", 1, BILLING_DAY_MAX)


_ORDERS: dict[str, OrderReader] = {
    "channel.registered": _register,
    "channel.changed": _change,
    "limit.set": _limit,
    "lot.purchased": _purchase,
    "lot.scheduled": _schedule,
    "reservation.changed": _change_reservation,
    "reservation.cancelled": _cancel_reservation,
    "lot.renewal_set": _renewal,
    "lot.refunded": _refund,
}
_MEANINGS: dict[str, Callable[[str, Fields, Vocabulary], Meaning]] = {
    "mu.counted": _contacts,
    "seat.assigned": _seat,
    "seat.released": _seat,
    "workflow.executed": _count,
    "marketing.sent": _count,
    "message.sent": _message,
}
# Where a type belongs, and who reads it.
_READERS: dict[str, tuple[str, Reader | None]] = {
    **dict.fromkeys(_MEANINGS, ("usage", _usage)),
    "usage.voided": ("usage", _void),
    **dict.fromkeys(_ORDERS, ("commands", _command)),
}
_NOWHERE = ("", None)
