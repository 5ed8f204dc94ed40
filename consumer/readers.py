"""Reads records of any topic: what is of the usual form at a third of the cost, all else by
`decoding`, which alone decides what is wrong with a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from consumer.decoding import Vocabulary, decode
from consumer.envelopes import VALUE_BYTES_MAX, UsualEvent, instant_from
from consumer.settings import USAGE_TOPICS
from metering.errors import Rejected
from metering.events import Count, Meaning, Reading, digest_of, said
from metering.intake import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aiokafka import ConsumerRecord

    from consumer.envelopes import Headers
    from metering.catalog import Catalog
    from metering.intake import Message
    from metering.meter import Decode

# What data was found to mean is kept, as most data has been seen before: `{"actions": 1}`.
MEANINGS_MAX = 20_000
MEANT_BYTES_MAX = 200

CHANNELS_MAX = 20_000

# A time is put together from parts that come again and again. One table of all seconds with their
# thousandths had 60,000 to learn, and with microseconds it never had learned them.
PARTS_MAX = 10_000
_SECOND, _FRACTION, _END = len("2024-01-01T00:00:"), len("2024-01-01T00:00:00"), 23
_SECONDS = {f"{second:02}": 1_000_000 * second for second in range(60)}
_THOUSANDTHS = {f".{thousandth:03}": 1_000 * thousandth for thousandth in range(1_000)}
# Far enough within the calendar for any offset.
_USUAL_INSTANTS = range(100 * 366 * 86_400 * 1_000_000)

_BACKSLASH = ord("\\")


def decoder_for(
    catalog: Catalog, *, commands_topic: str, usage_topics: Collection[str] = USAGE_TOPICS
) -> Decode:
    """Make the function that reads records of any topic as a catalog understands them."""
    return _Reader(Vocabulary.of(catalog), commands_topic, usage_topics)


class _Reader:
    def __init__(
        self, vocabulary: Vocabulary, commands_topic: str, usage_topics: Collection[str]
    ) -> None:
        self._vocabulary = vocabulary
        self._commands_topic = commands_topic
        self._usage_topics = frozenset(usage_topics)
        self._parse = msgspec.json.Decoder(UsualEvent).decode
        self._meanings: dict[tuple[str, bytes], Meaning] = {}
        self._channels: dict[str, str] = {}
        self._instants = _Instants()

    def __call__(self, topic: str, value: bytes | None, headers: Headers) -> Message:
        if topic not in self._usage_topics:
            home = "commands" if topic == self._commands_topic else "others"
            return decode(home, value, headers, self._vocabulary)
        # Escapes can hide a NUL; headers can hold the attributes.
        if headers or value is None or len(value) > VALUE_BYTES_MAX or _BACKSLASH in value:
            return decode("usage", value, headers, self._vocabulary)
        try:
            event = self._parse(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return decode("usage", value, headers, self._vocabulary)
        channel = self._one_object_of(event.subject)
        said_as = (event.type, bytes(event.data))
        meaning, at = self._meanings.get(said_as), self._instants.of(event.time)
        if meaning is not None and at is not None:
            return said(channel, digest_of(channel, event.source, event.id), at, meaning)
        message = decode("usage", value, headers, self._vocabulary)
        if isinstance(message, Count | Reading) and len(said_as[1]) <= MEANT_BYTES_MAX:
            if len(self._meanings) >= MEANINGS_MAX:
                self._meanings.clear()
            self._meanings[said_as] = _meaning_in(message)
        return message

    def _one_object_of(self, channel: str) -> str:
        """Have all events of a channel share its name: it is hashed once, and found by identity."""
        known = self._channels.get(channel)
        if known is None:
            if len(self._channels) >= CHANNELS_MAX:
                self._channels.clear()
            known = self._channels[channel] = channel
        return known


def read_records(
    fetched: Sequence[ConsumerRecord[bytes, bytes]],
    topic: str,
    number: int,
    decode: Decode,
    *,
    earliest: int,
    now: int,
) -> list[Record]:
    """Read what was fetched of a partition, which has this number in the books. What claims to have
    arrived before `earliest`, or after now, did not.
    """
    records = []
    for record in fetched:
        found: Message | Rejected
        headers = tuple(record.headers) if record.headers else ()
        try:
            found = decode(topic, record.value, headers)
        except Rejected as rejected:
            # Its traceback would keep everything that was read along with it.
            found = rejected.with_traceback(None)
        clock = record.timestamp * 1_000
        if not earliest <= clock <= now:
            clock = min(now, max(earliest, clock))
        records.append(
            Record(number, record.offset, clock, topic, record.key, record.value, headers, found)
        )
    return records


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
