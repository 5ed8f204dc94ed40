"""How the client unpacks what it fetched: never more than there is room for, and no record twice.

A batch of twelve kilobytes can hold hundreds of megabytes, and the broker only looks at what is on
the wire: the client itself knows no limit. Its own decoders are put aside for ones that stop. And
it makes another object, of eleven attributes, of each record that it has unpacked: a member's gives
out the record itself.
"""

from __future__ import annotations

import struct
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import cramjam
from aiokafka import codec
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.record import default_records, legacy_records
from aiokafka.record._crecords import default_records as compiled_default
from aiokafka.record._crecords import legacy_records as compiled_legacy

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import TopicPartition

# Texts like ours become ten times smaller, so a batch as large as its topic takes has room here.
UNPACKED_BYTES_MAX = 64 << 20

# The room that is tried first: most batches fit it.
_ROOM_FACTOR, _ROOM_BYTES_MIN = 16, 1 << 16

_XERIAL_HEAD_BYTES, _XERIAL_LENGTH = 16, struct.Struct("!i")


class UnpackedTooLarge(ValueError):
    """A batch holds more than anybody may make us keep in memory."""

    def __init__(self) -> None:
        super().__init__(f"a batch has more than {UNPACKED_BYTES_MAX} bytes when it is unpacked")


def gunzip(packed: bytes) -> bytes:
    """Unpack gzip, all of its members. Raises UnpackedTooLarge."""
    parts: list[bytes] = []
    left = UNPACKED_BYTES_MAX
    rest = bytes(packed)
    while rest:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        part = member.decompress(rest, left + 1)
        left -= len(part)
        if left < 0:
            raise UnpackedTooLarge
        if not member.eof:
            raise EOFError("a compressed batch ends too early")
        parts.append(part)
        # Zeros behind the last member are padding.
        rest = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def unsnappy(packed: bytes) -> bytes:
    """Unpack snappy, alone or in the frames of Java's library. Raises UnpackedTooLarge."""
    block = bytes(packed)
    if not codec._detect_xerial_stream(block):  # noqa: SLF001  # Pinned, and a test holds it.
        return _unsnappy_block(block, UNPACKED_BYTES_MAX)
    parts: list[bytes] = []
    left, at = UNPACKED_BYTES_MAX, _XERIAL_HEAD_BYTES
    while at < len(block):
        (length,) = _XERIAL_LENGTH.unpack_from(block, at)
        at += _XERIAL_LENGTH.size
        if length < 0:
            raise ValueError("a block has a negative length")
        part = _unsnappy_block(block[at : at + length], left)
        left -= len(part)
        at += length
        parts.append(part)
    return b"".join(parts)


def _unsnappy_block(block: bytes, bytes_max: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) > bytes_max:
        raise UnpackedTooLarge
    return bytes(cramjam.snappy.decompress_raw(block))


def unlz4(packed: bytes) -> bytes:
    """Unpack LZ4. Raises UnpackedTooLarge."""
    return _into_room(cramjam.lz4.decompress_into, packed)


def unzstd(packed: bytes) -> bytes:
    """Unpack Zstandard. Raises UnpackedTooLarge."""
    return _into_room(cramjam.zstd.decompress_into, packed)


def _into_room(decompress_into: Callable[[Any, Any], int], packed: bytes) -> bytes:
    size = max(_ROOM_BYTES_MIN, len(packed) * _ROOM_FACTOR)
    while True:
        size = min(size, UNPACKED_BYTES_MAX)
        room = bytearray(size)
        try:
            used = decompress_into(packed, room)
        except cramjam.DecompressionError as error:
            if _NO_ROOM not in str(error):
                raise
            if size == UNPACKED_BYTES_MAX:
                raise UnpackedTooLarge from None
            size *= _ROOM_FACTOR
        else:
            return bytes(memoryview(room)[:used])


# How the library says that the room was too small; a test holds it.
_NO_ROOM = "failed to write whole buffer"

_DECODERS = {
    "gzip_decode": gunzip,
    "snappy_decode": unsnappy,
    "lz4_decode": unlz4,
    "zstd_decode": unzstd,
}


def bound_unpacking() -> None:
    """Put bounded decoders in the place of the client's own, everywhere it looks for them."""
    for module in (compiled_default, compiled_legacy, default_records, legacy_records):
        for name, decode in _DECODERS.items():
            # Older formats do not know every codec.
            if hasattr(module, name):
                setattr(module, name, decode)


def as_unpacked(key: bytes | None) -> bytes | None:
    """Mark a client, as what reads its keys, that is to give out records as they were unpacked:
    with `offset`, `timestamp`, `key`, `value` and `headers`, and without topic and partition. It
    takes a twentieth less of a member's time.
    """
    return key


# Pinned, and tests hold them.
_make_record: Callable[..., object] = PartitionRecords._consumer_record  # noqa: SLF001
_get_all: Callable[..., list[object]] = FetchResult.getall


def _is_marked(unpacked: PartitionRecords | None) -> bool:
    return unpacked is not None and unpacked._key_deserializer is as_unpacked  # noqa: SLF001


def _record_of(unpacked: PartitionRecords, tp: TopicPartition, record: object) -> object:
    return record if _is_marked(unpacked) else _make_record(unpacked, tp, record)


def _all_of(result: FetchResult, max_records: int | None = None) -> list[object]:
    """Give out all at once: one by one, each goes through a loop of the client, too."""
    unpacked = result._partition_records  # noqa: SLF001
    if not _is_marked(unpacked):
        return _get_all(result, max_records)
    if not result.check_assignment(result._topic_partition):  # noqa: SLF001
        return []
    found = list(islice(unpacked._records_iterator, max_records))  # noqa: SLF001
    result._update_position()  # noqa: SLF001
    if max_records is None or len(found) < max_records:
        result._partition_records = None  # noqa: SLF001
    return found


def unpack_once() -> None:
    """Have clients that are marked give out records as they were unpacked; no others."""
    PartitionRecords._consumer_record = _record_of  # type: ignore[method-assign]  # noqa: SLF001
    FetchResult.getall = _all_of  # type: ignore[method-assign]
