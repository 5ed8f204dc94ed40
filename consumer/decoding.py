"""What a record says: the one place where bytes become events and commands, or a reason why not.

A reader turns the `data` of one type into what it means. Content is digested as it was understood, so that two ways
of writing one thing are one content.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from consumer.envelopes import TEXT_LENGTH_MAX, attributes_of, day_from, instant_from
from metering.catalog import GLOBAL_SMS
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
from metering.events import DIGEST_BYTES, Count, Reading, Tariff, Void, digest_of
from metering.periods import END_OF_MONTH, zone_named
from metering.segments import segments_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

__all__ = ["Vocabulary", "decode", "instant_from"]

UNITS_MAX = 10**9
MESSAGES_MAX = 10**6
SEGMENTS_MAX = 255
LIMIT_MAX = 10**12
BILLING_DAY_MAX = 27

# Renewed lots are named with it; a lot that a person names may not look like one.
RENEWAL_MARK = "~"

# Messages sent through the customer's own account there cost nothing.
FREE_PROVIDER = "twilio"

_SEATS = {"basic": "basic_seat", "operator": "operator_seat"}
_BLANK = blake2b(digest_size=DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that the catalog knows."""

    plans: frozenset[str]
    products: frozenset[str]
    message_kinds: frozenset[str]  # Those that have a price.
    countries: frozenset[str]  # Those to which a global SMS has a price.


class Stamp(NamedTuple):
    """What every event and command begins with, whatever its data."""

    kind: str
    channel: str
    digest: bytes  # Of the identity.
    at: int  # An instant.
    id: str


if TYPE_CHECKING:
    Reader = Callable[[Stamp, dict[str, Any], Vocabulary], Count | Reading | Void | Command]


def decode(
    topic_class: str,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    vocabulary: Vocabulary,
) -> Count | Reading | Void | Command:
    """Decode one record of a usage or commands topic. Raises Rejected and nothing else."""
    attributes = attributes_of(value, headers)
    stamp = _stamp_of(attributes)
    reader = _READERS[topic_class].get(stamp.kind)
    if reader is not None:
        return reader(stamp, _data_of(attributes), vocabulary)

    stranger = _READERS["commands" if topic_class == "usage" else "usage"].get(stamp.kind)
    if stranger is None:
        raise Rejected("unknown_type", "type is not one of the documented types")
    try:
        stranger(stamp, _data_of(attributes), vocabulary)
    except Rejected as rejected:
        # Of the reasons that depend on data only this one comes before the topic.
        if rejected.reason == "malformed":
            raise
    raise Rejected("wrong_topic", f"this type does not belong on a topic for {topic_class}")


def _stamp_of(attributes: dict[str, Any]) -> Stamp:
    kind = attributes.get("type")
    if type(kind) is not str or not kind:
        raise Rejected("malformed", "type must be a text")
    at = instant_from(attributes.get("time"))
    if at is None:
        raise Rejected("malformed", "time must be an RFC 3339 time with an offset")
    channel, source = _text(attributes, "subject"), _text(attributes, "source")
    event_id = _text(attributes, "id")
    return Stamp(kind, channel, digest_of(channel, source, event_id), at, event_id)


def _data_of(attributes: dict[str, Any]) -> dict[str, Any]:
    data = attributes.get("data")
    if type(data) is not dict:
        raise Rejected("malformed", "data must be a JSON object")
    return data


def _content(text: str) -> bytes:
    """Digest a content; its parts are joined by NUL, which no text holds."""
    digest = _BLANK.copy()
    digest.update(text.encode())
    return digest.digest()


# Usage.


def _workflow(stamp: Stamp, data: dict[str, Any], _: Vocabulary) -> Count:
    return _count(stamp, "workflow", _whole(data, "actions", 1, UNITS_MAX))


def _marketing(stamp: Stamp, data: dict[str, Any], _: Vocabulary) -> Count:
    return _count(stamp, "marketing", _whole(data, "messages", 1, UNITS_MAX))


def _count(stamp: Stamp, product: str, units: int) -> Count:
    kind, channel, digest, at, _ = stamp
    return Count(channel, digest, _content(f"{kind}\0{at}\0{units}"), at, product, units, None)


def _message(stamp: Stamp, data: dict[str, Any], vocabulary: Vocabulary) -> Count:
    kind, channel, digest, at, _ = stamp
    message_kind = _text(data, "kind")
    count = _whole(data, "count", 1, MESSAGES_MAX)
    provider = _text(data, "provider") if "provider" in data else ""
    country, segments, text = "", 0, ""
    is_global = message_kind == GLOBAL_SMS
    if is_global:
        country = _text(data, "country")
        if "segments" in data:
            segments = _whole(data, "segments", 1, SEGMENTS_MAX)
        else:
            text = data.get("text")
            if type(text) is not str:
                raise Rejected("malformed", "a global SMS needs segments or a text")
            if not text:
                raise Rejected("empty_text", "text must have at least one character")

    free = provider == FREE_PROVIDER
    if message_kind not in vocabulary.message_kinds:
        raise Rejected("no_price", "kind is not in the price list")
    if is_global:
        if not free and country not in vocabulary.countries:
            raise Rejected("no_price", "country is not in the price list")
        segments = segments or segments_of(text)
    content = f"{kind}\0{at}\0{message_kind}\0{count}\0{country}\0{segments}\0{provider}"
    tariff = Tariff(message_kind, country, segments, free)
    return Count(channel, digest, _content(content), at, "pu", count, tariff)


def _contacts(stamp: Stamp, data: dict[str, Any], _: Vocabulary) -> Reading:
    kind, channel, digest, at, _id = stamp
    level = _whole(data, "count", 0, UNITS_MAX)
    return Reading(channel, digest, _content(f"{kind}\0{at}\0{level}"), at, "mu", b"", level)


def _seat(stamp: Stamp, data: dict[str, Any], _: Vocabulary) -> Reading:
    kind, channel, digest, at, _id = stamp
    seat, manager = _text(data, "seat"), _text(data, "manager")
    if seat not in _SEATS:
        raise Rejected("malformed", "seat must be basic or operator")
    content = _content(f"{kind}\0{at}\0{seat}\0{manager}")
    level = 1 if kind == "seat.assigned" else 0
    return Reading(channel, digest, content, at, _SEATS[seat], digest_of(manager), level)


def _void(stamp: Stamp, data: dict[str, Any], _: Vocabulary) -> Void:
    kind, channel, digest, at, _id = stamp
    source, event_id = _text(data, "source"), _text(data, "id")
    content = _content(f"{kind}\0{at}\0{source}\0{event_id}\0{_text(data, 'reason')}")
    return Void(channel, digest, content, at, digest_of(channel, source, event_id))


# Commands.


def _command(stamp: Stamp, data: dict[str, Any], vocabulary: Vocabulary) -> Command:
    kind, channel, digest, at, command_id = stamp
    order = _ORDERS[kind](data, vocabulary)
    # No text is empty, so nothing else is written like None.
    parts = ["" if part is None else str(part) for part in astuple(order)]
    content = _content("\0".join([kind, str(at), *parts]))
    return Command(channel, digest, content, at, command_id, order)


def _register(data: dict[str, Any], vocabulary: Vocabulary) -> Register:
    plan = _one_of(vocabulary.plans, data, "plan")
    try:
        zone_named(time_zone := _text(data, "time_zone"))
    except ValueError:
        raise Rejected("malformed", "time_zone must be an IANA name") from None
    trial_ends_on = _day(data, "trial_ends_on") if "trial_ends_on" in data else None
    if plan == "trial" and trial_ends_on is None:
        raise Rejected("malformed", "trial_ends_on is required with the plan trial")
    return Register(plan, time_zone, _billing_day(data), trial_ends_on)


def _change(data: dict[str, Any], vocabulary: Vocabulary) -> Change:
    change = Change(
        _one_of(vocabulary.plans, data, "plan") if "plan" in data else None,
        _billing_day(data) if "billing_day" in data else None,
        _day(data, "trial_ends_on") if "trial_ends_on" in data else None,
    )
    if change == Change():
        raise Rejected("malformed", "plan, billing_day or trial_ends_on is required")
    return change


def _limit(data: dict[str, Any], vocabulary: Vocabulary) -> SetLimit:
    product = _one_of(vocabulary.products, data, "product")
    is_removed = "limit" in data and data["limit"] is None
    return SetLimit(product, None if is_removed else _whole(data, "limit", 0, LIMIT_MAX))


def _purchase(data: dict[str, Any], vocabulary: Vocabulary) -> Purchase:
    return Purchase(*_new_lot(data, vocabulary))


def _schedule(data: dict[str, Any], vocabulary: Vocabulary) -> Schedule:
    return Schedule(*_new_lot(data, vocabulary))


def _new_lot(data: dict[str, Any], vocabulary: Vocabulary) -> tuple[str, str, int, bool]:
    lot = _text(data, "lot")
    if RENEWAL_MARK in lot:
        raise Rejected("malformed", f"lot must not hold {RENEWAL_MARK}")
    product = _one_of(vocabulary.products, data, "product")
    renew = _flag(data, "renew") if "renew" in data else True
    return lot, product, _quantity(data), renew


def _change_reservation(data: dict[str, Any], _: Vocabulary) -> ChangeReservation:
    if "quantity" not in data and "renew" not in data:
        raise Rejected("malformed", "quantity or renew is required")
    return ChangeReservation(
        _text(data, "lot"),
        _quantity(data) if "quantity" in data else None,
        _flag(data, "renew") if "renew" in data else None,
    )


def _cancel_reservation(data: dict[str, Any], _: Vocabulary) -> CancelReservation:
    return CancelReservation(_text(data, "lot"))


def _renewal(data: dict[str, Any], _: Vocabulary) -> SetRenewal:
    return SetRenewal(_text(data, "lot"), _flag(data, "renew"))


def _refund(data: dict[str, Any], _: Vocabulary) -> Refund:
    return Refund(_text(data, "lot"))


# Single values of data.


def _text(data: dict[str, Any], name: str) -> str:
    text = data.get(name)
    if type(text) is str and 0 < len(text) <= TEXT_LENGTH_MAX:
        return text
    raise Rejected("malformed", f"{name} must be a text of 1 to {TEXT_LENGTH_MAX} characters")


def _whole(data: dict[str, Any], name: str, lowest: int, highest: int) -> int:
    number = data.get(name)
    if type(number) is int and lowest <= number <= highest:
        return number
    raise Rejected("malformed", f"{name} must be an integer from {lowest} to {highest}")


def _quantity(data: dict[str, Any]) -> int:
    """Read a quantity of any size: whether it is in bounds is for the books to say."""
    return _whole(data, "quantity", -(2**63), 2**63 - 1)


def _flag(data: dict[str, Any], name: str) -> bool:
    flag = data.get(name)
    if type(flag) is bool:
        return flag
    raise Rejected("malformed", f"{name} must be true or false")


def _day(data: dict[str, Any], name: str) -> date:
    day = day_from(data.get(name))
    if day is None:
        raise Rejected("malformed", f"{name} must be a day, YYYY-MM-DD")
    return day


def _billing_day(data: dict[str, Any]) -> int:
    if data.get("billing_day") == "end":
        return END_OF_MONTH
    day = data.get("billing_day")
    if type(day) is int and 1 <= day <= BILLING_DAY_MAX:
        return day
    raise Rejected(
        "malformed", f"billing_day must be an integer from 1 to {BILLING_DAY_MAX}, or end"
    )


def _one_of(names: frozenset[str], data: dict[str, Any], name: str) -> str:
    text = data.get(name)
    if type(text) is str and text in names:
        return text
    raise Rejected("malformed", f"{name} is not one the catalog knows")


_ORDERS: dict[str, Callable[[dict[str, Any], Vocabulary], Order]] = {
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

_READERS: dict[str, dict[str, Reader]] = {
    "usage": {
        "workflow.executed": _workflow,
        "message.sent": _message,
        "marketing.sent": _marketing,
        "mu.counted": _contacts,
        "seat.assigned": _seat,
        "seat.released": _seat,
        "usage.voided": _void,
    },
    "commands": dict.fromkeys(_ORDERS, _command),
}
