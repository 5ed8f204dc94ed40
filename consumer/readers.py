"""Reads records of any topic: what is of the usual form at a third of the cost, all else by
`decoding`, which alone decides what is wrong with a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from consumer.decoding import Meaning, Vocabulary, decode, said
from consumer.envelopes import TEXT_LENGTH_MAX, VALUE_BYTES_MAX, instant_from
from consumer.settings import USAGE_TOPICS
from metering.events import Count, Reading, digest_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from consumer.envelopes import Headers
    from metering.catalog import Catalog
    from metering.intake import Message
    from metering.meter import Decode

# What data was found to mean is kept, as most data has been seen before: `{"actions": 1}`.
MEANINGS_MAX = 20_000
MEANT_BYTES_MAX = 200

# A time is put together from parts that come again and again. One table of all seconds with their
# thousandths had 60,000 to learn, and with microseconds it never had learned them.
PARTS_MAX = 10_000
_SECOND, _FRACTION, _END = len("2024-01-01T00:00:"), len("2024-01-01T00:00:00"), 23
_SECONDS = {f"{second:02}": 1_000_000 * second for second in range(60)}
_THOUSANDTHS = {f".{thousandth:03}": 1_000 * thousandth for thousandth in range(1_000)}
# Far enough within the calendar for any offset.
_USUAL_INSTANTS = range(100 * 366 * 86_400 * 1_000_000)

_BACKSLASH = ord("\\")

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]


class _Envelope(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
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


def decoder_for(
    catalog: Catalog, *, commands_topic: str, usage_topics: Collection[str] = USAGE_TOPICS
) -> Decode:
    """Make the function that reads records of any topic as a catalog understands them."""
    vocabulary = Vocabulary.of(catalog)
    parse = msgspec.json.Decoder(_Envelope).decode
    meanings: dict[tuple[str, bytes], Meaning] = {}
    instant_of = _Instants().of

    def read(topic: str, value: bytes | None, headers: Headers) -> Message:
        if topic not in usage_topics:
            home = "commands" if topic == commands_topic else "others"
            return decode(home, value, headers, vocabulary)
        # Escapes can hide a NUL; headers can hold the attributes.
        if headers or value is None or len(value) > VALUE_BYTES_MAX or _BACKSLASH in value:
            return decode("usage", value, headers, vocabulary)
        try:
            envelope = parse(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return decode("usage", value, headers, vocabulary)
        channel = envelope.subject
        said_as = (envelope.type, bytes(envelope.data))
        meaning, at = meanings.get(said_as), instant_of(envelope.time)
        if meaning is not None and at is not None:
            return said(channel, digest_of(channel, envelope.source, envelope.id), at, meaning)
        message = decode("usage", value, headers, vocabulary)
        if isinstance(message, Count | Reading) and len(said_as[1]) <= MEANT_BYTES_MAX:
            if len(meanings) >= MEANINGS_MAX:
                meanings.clear()
            meanings[said_as] = _meaning_in(message)
        return message

    return read


def _meaning_in(message: Count | Reading) -> Meaning:
    if isinstance(message, Count):
        return Meaning(message.product, message.content, message.units, message.tariff)
    return Meaning(message.product, message.content, message.level, person=message.person)


class _Instants:
    """Reads times by their parts: `2026-11-28T09:30:` `15` `.250` `Z`, or `.250` `118+09:00`."""

    def __init__(self) -> None:
        self._minutes: dict[str, int] = {}
        self._zones: dict[str, int] = {}  # Behind a whole second …
        self._ends: dict[str, int] = {}  # … and behind a thousandth, with more digits or without.

    def of(self, text: str) -> int | None:
        """Read an RFC 3339 time; None where it is none, or an unusual one."""
        try:
            second = self._minutes[text[:_SECOND]] + _SECONDS[text[_SECOND:_FRACTION]]
            if text[_FRACTION:_END] in _THOUSANDTHS:
                return second + _THOUSANDTHS[text[_FRACTION:_END]] + self._ends[text[_END:]]
            return second + self._zones[text[_FRACTION:]]
        except KeyError:
            return self._learn(text)

    def _learn(self, text: str) -> int | None:
        minute = text[:_SECOND]
        instant, begins = instant_from(text), instant_from(minute + "00Z")
        if instant is None or begins is None or begins not in _USUAL_INSTANTS:
            return None
        rest = instant - begins - _SECONDS[text[_SECOND:_FRACTION]]
        thousandth = _THOUSANDTHS.get(text[_FRACTION:_END])
        _remember(self._minutes, minute, begins)
        if thousandth is None:
            _remember(self._zones, text[_FRACTION:], rest)
        else:
            _remember(self._ends, text[_END:], rest - thousandth)
        return instant


def _remember(known: dict[str, int], part: str, value: int) -> None:
    if len(known) >= PARTS_MAX:
        known.clear()
    known[part] = value
