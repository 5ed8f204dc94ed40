"""The outside of a record: a CloudEvent in either mode becomes attributes that the books can keep."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import orjson

from metering.errors import Rejected
from metering.periods import instant_of, moment_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# Looked at before anything else, so that nobody makes us parse megabytes.
VALUE_BYTES_MAX = 65_536

# Names and ids become keys of indexes.
TEXT_LENGTH_MAX = 255

_BINARY_PREFIX = "ce_"
_BACKSLASH = ord("\\")

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_NUMBER = re.compile(rb"[-0-9][-+.0-9Ee]*")
# An odd number of backslashes makes an escape of what follows them.
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

# The smallest integer that does not fit a signed 64-bit has this many digits.
_LONG_DIGITS = 19
_LONG_RUN = b"0" * _LONG_DIGITS
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")

_DAY_SHAPE = b"0000-00-00"
_TIME_SHAPE = "0000-00-00T00:00:00"
# What a time may look like with zeros for digits. Python itself reads far more than RFC 3339.
_UTC_SHAPES = frozenset(
    (_TIME_SHAPE + fraction + "Z").encode()
    for fraction in ("", *("." + "0" * digits for digits in range(1, 10)))
)
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]((?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)"
    r"[0-9]*([Zz]|[+-][0-9]{2}:[0-5][0-9])"
)


def attributes_of(
    value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> dict[str, Any]:
    """Read a record as the attributes of an event and its `data`. Raises Rejected and nothing else."""
    if value is not None and len(value) > VALUE_BYTES_MAX:
        raise Rejected("too_large", f"the value must have at most {VALUE_BYTES_MAX} bytes")
    if headers and any(name == "ce_type" for name, _ in headers):
        event = _attributes_in(headers)
        if value:
            event["data"] = _parse(value)
    else:
        if value is None:
            raise Rejected("malformed", "the record must have a value")
        event = _parse(value)
        if type(event) is not dict:
            raise Rejected("malformed", "the value must be a JSON object")
    if event.get("specversion", "1.0") != "1.0":
        raise Rejected("malformed", "specversion must be the text 1.0 or absent")
    return event


def instant_from(text: object) -> int | None:
    """Read an RFC 3339 time; None if it is none, or outside the years 1 to 9999 in UTC."""
    if type(text) is not str:
        return None
    try:
        if text.encode().translate(_DIGITS_TO_ZERO) not in _UTC_SHAPES or text[11:13] == "24":
            return _instant_from_rare(text)
        return instant_of(datetime.fromisoformat(text))
    except ValueError:
        return None


def day_from(text: object) -> date | None:
    """Read a day as YYYY-MM-DD; None if it is none."""
    if type(text) is not str:
        return None
    try:
        has_shape = text.encode().translate(_DIGITS_TO_ZERO) == _DAY_SHAPE
        return date.fromisoformat(text) if has_shape else None
    except ValueError:
        return None


def _instant_from_rare(text: str) -> int | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, clock, zone = match.groups()
    instant = instant_of(datetime.fromisoformat(f"{day}T{clock}{zone.upper()}"))
    try:
        # An offset can push the first and the last day out of the calendar.
        moment_of(instant)
    except OverflowError:
        return None
    return instant


def _attributes_in(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, Any]:
    """Read the attributes of binary mode; of a repeated header the last counts."""
    last = {
        name.removeprefix(_BINARY_PREFIX): value
        for name, value in headers
        if name.startswith(_BINARY_PREFIX)
    }
    # The value is `data`, whatever a header says.
    last.pop("data", None)
    try:
        attributes = {name: value.decode() for name, value in last.items() if value is not None}
    except UnicodeDecodeError:
        raise Rejected("malformed", "a header is not UTF-8") from None
    if any("\0" in text for attribute in attributes.items() for text in attribute):
        raise Rejected("malformed", "a header holds a NUL")
    return attributes


def _parse(value: bytes) -> Any:
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        # Without its cause: that one quotes the whole value.
        raise Rejected("malformed", "the value must be JSON in UTF-8") from None
    if _BACKSLASH in value and _NUL_ESCAPE.search(value):
        raise Rejected("malformed", "a text holds a NUL")
    # The parser makes floats of integers that are too long, and drops those of repeated keys, so look at the bytes.
    if value.translate(_DIGITS_TO_ZERO).find(_LONG_RUN) >= 0 and not _integers_fit(value):
        raise Rejected("malformed", "an integer does not fit 64 bits")
    return document


def _integers_fit(value: bytes) -> bool:
    for number in _NUMBER.findall(_STRING.sub(b"", value)):
        digits = number.removeprefix(b"-")
        if digits.isdigit() and len(digits) >= _LONG_DIGITS:
            # The length first: Python refuses to read thousands of digits.
            if len(digits) > _LONG_DIGITS or not -(2**63) <= int(number) < 2**63:
                return False
    return True
