"""Reads records of any topic: what is of the usual form at a third of the cost, all else by
`decoding`, which alone decides what is wrong with a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
MEANINGS_MAX: Final = 20_000
MEANT_BYTES_MAX: Final = 200

CHANNELS_MAX = 20_000

# What a record takes in memory besides its value and headers.
RECORD_BYTES: Final = 500

# Days and zones of times are kept: they come again and again.
PARTS_MAX: Final = 10_000
# Where the parts of a time begin: `2026-11-28T09:30:15.250118+09:00`.
_HOUR: Final = 11
_MINUTE: Final = 14
_SECOND: Final = 17
_FRACTION: Final = 19
_TEN: Final = 10
# Far enough within the calendar for any offset.
_USUAL_INSTANTS: Final = range(100 * 366 * 86_400 * 1_000_000)

_BACKSLASH: Final = ord("\\")


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
        clock: int = record.timestamp * 1_000
        if not earliest <= clock <= now:
            clock = min(now, max(earliest, clock))
        records.append(
            Record(number, record.offset, clock, topic, record.key, record.value, headers, found)
        )
    return records


def channels_of(records: list[Record]) -> set[str]:
    """List the channels that records are about, as far as they could be read."""
    channels = set()
    for record in records:
        found = record.found
        if not isinstance(found, Rejected):
            channels.add(found.channel)
    return channels


def size_of(fetched: Sequence[ConsumerRecord[bytes, bytes]]) -> int:
    """Say what records weigh in memory, roughly."""
    size = RECORD_BYTES * len(fetched)
    for record in fetched:
        value = record.value
        if value:
            size += len(value)
        for _, header in record.headers or ():
            size += len(header or b"")
    return size


def _meaning_in(message: Count | Reading) -> Meaning:
    if isinstance(message, Count):
        return Meaning(message.product, message.content, message.units, message.tariff)
    return Meaning(message.product, message.content, message.level, person=message.person)


class _Instants:
    """Reads times digit by digit: to look their parts up in tables took two thirds longer."""

    def __init__(self) -> None:
        self._days: dict[str, int] = {}
        self._zones: dict[str, int] = {}  # How far a time there is ahead of the same one in UTC.

    def of(self, text: str) -> int | None:
        """Read an RFC 3339 time; None where it is none, or an unusual one."""
        begins = self._days.get(text[:_HOUR])
        if begins is None or len(text) <= _FRACTION or text[13] != ":" or text[16] != ":":
            return self._learn(text)
        hour, minute = _two_digits(text, _HOUR, 24), _two_digits(text, _MINUTE, 60)
        second = _two_digits(text, _SECOND, 60)
        if hour < 0 or minute < 0 or second < 0:
            return None
        instant = begins + 1_000_000 * (3_600 * hour + 60 * minute + second)
        at = _FRACTION
        if text[at] == ".":
            worth = 100_000
            while (digit := _digit(text, at + 1)) >= 0:
                # Digits beyond microseconds are worth nothing.
                instant += worth * digit
                worth //= 10
                at += 1
            if at == _FRACTION:
                return None
            at += 1
        zone = self._zones.get(text[at:])
        return self._learn(text) if zone is None else instant + zone

    def _learn(self, text: str) -> int | None:
        """Read a time that has an unknown day or zone, and keep what these are."""
        day = text[:_HOUR]
        instant, begins = instant_from(text), instant_from(f"{day}00:00:00Z")
        if instant is None or begins is None or begins not in _USUAL_INSTANTS:
            return None
        zone = text[-1:] if text[-1] in "Zz" else text[-len("+00:00") :]
        here, there = instant_from(f"{day}12:00:00Z"), instant_from(f"{day}12:00:00{zone}")
        assert here is not None
        assert there is not None
        _remember(self._days, day, begins)
        _remember(self._zones, zone, there - here)
        return instant


def _two_digits(text: str, at: int, limit: int) -> int:
    """Read a number of two digits below a limit; -1 where there is none."""
    tens, ones = _digit(text, at), _digit(text, at + 1)
    number = _TEN * tens + ones
    return number if tens >= 0 and ones >= 0 and number < limit else -1


def _digit(text: str, at: int) -> int:
    """Read a digit; -1 where there is none."""
    if at >= len(text):
        return -1
    digit = ord(text[at]) - ord("0")
    return digit if 0 <= digit < _TEN else -1


def _remember(known: dict[str, int], part: str, value: int) -> None:
    if len(known) >= PARTS_MAX:
        known.clear()
    known[part] = value
