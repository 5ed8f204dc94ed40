"""The outside of a record: how a CloudEvent in either mode is read, and single values of it."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import msgspec
import orjson

from metering.errors import Rejected
from metering.periods import instant_of

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

Fields: TypeAlias = dict[str, Any]
Headers: TypeAlias = "Sequence[tuple[str, bytes | None]]"

# Looked at before anything else, so that nobody makes us parse megabytes.
VALUE_BYTES_MAX: Final = 65_536

# In code points. Names and ids become keys of indexes.
TEXT_LENGTH_MAX = 255

_MODE_HEADER = "ce_type"
_ATTRIBUTE_PREFIX = "ce_"

_BACKSLASH = ord("\\")
# An odd number of backslashes makes an escape of what follows them.
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_NUMBER = re.compile(rb"[-0-9][-+.0-9Ee]*")

# The smallest integer that does not fit 64 bits with a sign has 19 digits.
_LONG_RUN = b"0" * 19
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")

_DAY_SHAPE = b"0000-00-00"
# RFC 3339, of which Python reads far more. Nearly all times have a usual shape: zeros for digits.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_USUAL_SHAPES = frozenset(
    b"0000-00-00T00:00:00%b%b" % (fraction, zone)
    for fraction in (b"", b".000", b".000000", b".000000000")
    for zone in (b"Z", b"+00:00", b"-00:00")
)
# With room for a zone, a lot and a cycle before and after.
_FIRST_INSTANT = instant_of(datetime(2, 1, 1, tzinfo=UTC))
_LAST_INSTANT = instant_of(datetime(9997, 1, 1, tzinfo=UTC))

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]


class UsualEvent(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    """A structured event with no attributes but these; typed, it costs half of a dictionary."""

    type: str
    subject: _Text
    source: _Text
    id: _Text
    time: str
    data: msgspec.Raw
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: str = ""
    dataschema: str = ""
    traceparent: str = ""
    tracestate: str = ""


def attributes_of(value: bytes | None, headers: Headers) -> Fields:
    """Read the attributes of an event and its `data`. Raises Rejected and nothing else."""
    if value is not None and len(value) > VALUE_BYTES_MAX:
        raise Rejected("too_large", f"the value must have at most {VALUE_BYTES_MAX} bytes")
    if headers and any(name == _MODE_HEADER for name, _ in headers):
        attributes = _attributes_in(headers)
        if value:
            attributes["data"] = _parse(value)
    else:
        document = _parse(value or b"")
        if not isinstance(document, dict):
            raise Rejected("malformed", "the value must be a JSON object")
        attributes = document
    if attributes.get("specversion", "1.0") != "1.0":
        raise Rejected("malformed", "specversion must be the text 1.0 or absent")
    return attributes


def _attributes_in(headers: Headers) -> Fields:
    # A header that is repeated takes the place of the one before.
    last = {
        name.removeprefix(_ATTRIBUTE_PREFIX): value
        for name, value in headers
        if name.startswith(_ATTRIBUTE_PREFIX)
    }
    try:
        attributes = {name: value.decode() for name, value in last.items() if value is not None}
    except UnicodeDecodeError:
        raise Rejected("malformed", "an attribute must be UTF-8") from None
    if any("\0" in text for attribute in attributes.items() for text in attribute):
        raise Rejected("malformed", "an attribute holds a NUL")
    return attributes


def _parse(value: bytes) -> object:
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        # Without its cause, which quotes the whole value.
        raise Rejected("malformed", "the value must be JSON in UTF-8") from None
    if _BACKSLASH in value and _NUL_ESCAPE.search(value):
        raise Rejected("malformed", "a text holds a NUL")
    # orjson makes floats of long integers and forgets those of repeated keys: look at the bytes.
    if value.translate(_DIGITS_TO_ZERO).find(_LONG_RUN) >= 0 and not _integers_fit(value):
        raise Rejected("malformed", "an integer does not fit 64 bits")
    return document


def _integers_fit(value: bytes) -> bool:
    # Short enough for Python to read: the parser refuses numbers that are no finite float.
    return all(
        -(2**63) <= int(number) < 2**64
        for number in _NUMBER.findall(_STRING.sub(b"", value))
        if number.removeprefix(b"-").isdigit()
    )


def instant_from(text: object) -> int | None:
    """Read an RFC 3339 time as an instant; None if it is none or beyond the years 1 to 9999."""
    if type(text) is not str:
        return None
    try:
        if text.encode().translate(_DIGITS_TO_ZERO) not in _USUAL_SHAPES:
            if not _TIME.fullmatch(text):
                return None
            text = text.upper()
        # Python reads minutes of an offset beyond 59, and later versions of it hour 24.
        if (text[-3] == ":" and text[-2] > "5") or text[11:13] == "24":
            return None
        # Digits beyond microseconds are cut here.
        instant = instant_of(datetime.fromisoformat(text))
    except ValueError:
        return None
    # An offset can lead out of the calendar.
    return instant if _FIRST_INSTANT <= instant <= _LAST_INSTANT else None


def text_in(fields: Fields, name: str) -> str:
    """Read a required text that is not empty."""
    text = fields.get(name)
    if type(text) is str and 0 < len(text) <= TEXT_LENGTH_MAX:
        return text
    raise Rejected("malformed", f"{name} must be a text of 1 to {TEXT_LENGTH_MAX} characters")


def whole_in(fields: Fields, name: str, lowest: int, highest: int) -> int:
    """Read a required integer."""
    number = fields.get(name)
    if type(number) is int and lowest <= number <= highest:
        return number
    raise Rejected("malformed", f"{name} must be an integer from {lowest} to {highest}")


def flag_in(fields: Fields, name: str) -> bool:
    """Read a required truth value."""
    flag = fields.get(name)
    if type(flag) is bool:
        return flag
    raise Rejected("malformed", f"{name} must be true or false")


def day_in(fields: Fields, name: str) -> date:
    """Read a required day."""
    text = fields.get(name)
    if type(text) is str and text.encode().translate(_DIGITS_TO_ZERO) == _DAY_SHAPE:
        with suppress(ValueError):
            return date.fromisoformat(text)
    raise Rejected("malformed", f"{name} must be a day, YYYY-MM-DD")


def one_of(names: Container[str], fields: Fields, name: str) -> str:
    """Read a required text that is one of a few."""
    text = fields.get(name)
    if type(text) is str and text in names:
        return text
    raise Rejected("malformed", f"{name} is not one of those that are known")
