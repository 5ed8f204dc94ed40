"""What is unpacked is what was packed, and never more than there may be."""

import gzip
import struct
from types import SimpleNamespace

import cramjam
import pytest
from aiokafka import ConsumerRecord, TopicPartition, codec
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.record import _crecords, default_records, legacy_records
from aiokafka.record._crecords import default_records as compiled
from aiokafka.record.memory_records import MemoryRecords

from consumer import unpacking
from consumer.unpacking import (
    UnpackedTooLarge,
    as_unpacked,
    bound_unpacking,
    gunzip,
    unlz4,
    unpack_once,
    unsnappy,
    unzstd,
)

CODECS = {
    "gzip": (codec.gzip_encode, gunzip),
    "snappy": (codec.snappy_encode, unsnappy),
    "snappy-raw": (lambda text: codec.snappy_encode(text, xerial_compatible=False), unsnappy),
    "lz4": (codec.lz4_encode, unlz4),
    "zstd": (codec.zstd_encode, unzstd),
}
# Small here, so that a test needs no second for what is at the limit.
UNPACKED_BYTES_MAX = 1 << 20
TEXT = b'{"id": "e-1", "type": "workflow.executed"}' * 5_000


@pytest.fixture(autouse=True)
def small_limit(monkeypatch):
    monkeypatch.setattr(unpacking, "UNPACKED_BYTES_MAX", UNPACKED_BYTES_MAX)


@pytest.fixture
def the_client_as_it_was():
    """Give the client its own decoders, which another test of this run may have put aside."""
    names = tuple(unpacking._DECODERS)
    modules = (compiled, default_records)
    before = {(module, name): getattr(module, name) for module in modules for name in names}
    for module, name in before:
        setattr(module, name, getattr(codec, name))
    yield
    for (module, name), decode in before.items():
        setattr(module, name, decode)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("text", [b"{}", TEXT, TEXT * 4], ids=["little", "much", "more"])
def test_what_was_packed_is_unpacked(name, text):
    pack, unpack = CODECS[name]

    assert unpack(pack(text)) == text


@pytest.mark.parametrize("name", CODECS)
def test_a_batch_may_be_as_large_as_the_limit_and_no_byte_larger(name):
    pack, unpack = CODECS[name]
    largest = bytes(UNPACKED_BYTES_MAX)

    assert len(unpack(pack(largest))) == UNPACKED_BYTES_MAX
    with pytest.raises(UnpackedTooLarge):
        unpack(pack(largest + b"!"))


@pytest.mark.parametrize("name", CODECS)
def test_what_is_broken_is_an_error_at_once(name):
    pack, unpack = CODECS[name]
    packed = pack(TEXT)

    with pytest.raises(Exception) as raised:  # noqa: PT011  # Each library has its own.
        unpack(packed[: len(packed) // 2])

    assert not isinstance(raised.value, UnpackedTooLarge | MemoryError)


def test_several_members_of_gzip_count_together():
    half = gzip.compress(bytes(UNPACKED_BYTES_MAX // 2 + 1))

    assert gunzip(gzip.compress(b"a") + gzip.compress(b"b") + bytes(8)) == b"ab"
    with pytest.raises(UnpackedTooLarge):
        gunzip(half + half)


def test_blocks_of_snappy_count_together_and_cannot_run_backwards():
    head = codec.snappy_encode(b"a" * 100)[:16]
    block = bytes(cramjam.snappy.compress_raw(bytes(UNPACKED_BYTES_MAX // 2 + 1)))
    framed = struct.pack("!i", len(block)) + block

    with pytest.raises(UnpackedTooLarge):
        unsnappy(head + framed + framed)
    with pytest.raises(ValueError, match="negative"):
        unsnappy(head + struct.pack("!i", -20) + block)


@pytest.mark.usefixtures("the_client_as_it_was")
@pytest.mark.parametrize("kind", [1, 2, 3, 4], ids=["gzip", "snappy", "lz4", "zstd"])
def test_the_client_unpacks_a_bomb_no_further_than_the_limit(kind):
    builder = default_records.DefaultRecordBatchBuilder(
        magic=2, compression_type=kind, is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=0, batch_size=1 << 31,
    )  # fmt: skip
    builder.append(0, timestamp=0, key=None, value=bytes(UNPACKED_BYTES_MAX + 1), headers=[])
    batch = bytes(builder.build())
    assert len(batch) < UNPACKED_BYTES_MAX // 10

    def unpacked():
        records = _crecords.MemoryRecords(batch).next_batch()
        return next(iter(records)).value

    assert len(unpacked()) > UNPACKED_BYTES_MAX

    bound_unpacking()

    with pytest.raises(UnpackedTooLarge):
        unpacked()
    # Python's own way, where nothing was compiled.
    assert default_records.zstd_decode is unzstd


def a_record_of_today():
    builder = default_records.DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=False,
        producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=10_000,
    )  # fmt: skip
    builder.append(0, 5, b"k", b"v", [("a", b"1")])
    return bytes(builder.build()), [("a", b"1")]


def a_record_of_old():
    builder = legacy_records.LegacyRecordBatchBuilder(
        magic=1, compression_type=0, batch_size=10_000
    )
    builder.append(0, 5, b"k", b"v")
    return bytes(builder.build()), []


@pytest.mark.parametrize("pack", [a_record_of_today, a_record_of_old])
def test_a_members_client_gives_out_what_it_unpacked_and_another_what_it_always_did(pack):
    unpack_once()
    packed, headers = pack()

    def unpacked(key_deserializer):
        return PartitionRecords(
            TopicPartition("t", 0), MemoryRecords(packed), [], 0, key_deserializer, None,
            check_crcs=True, isolation_level=READ_COMMITTED,
        )  # fmt: skip

    [ours], [others] = unpacked(as_unpacked), unpacked(None)

    assert not isinstance(ours, ConsumerRecord)
    assert isinstance(others, ConsumerRecord)
    for record in (ours, others):
        found = record.offset, record.timestamp, record.key, record.value, list(record.headers)
        assert found == (0, 5, b"k", b"v", headers)


@pytest.mark.parametrize("marker", [as_unpacked, None])
def test_records_are_given_out_in_pieces_by_a_members_client_and_by_another(marker):
    unpack_once()
    builder = default_records.DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=False,
        producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=10_000,
    )  # fmt: skip
    for number in range(6):
        builder.append(number, 5, b"k", b"v", [])
    packed, tp = bytes(builder.build()), TopicPartition("t", 0)
    state = SimpleNamespace(paused=False)
    state.consumed_to = lambda position: setattr(state, "position", position)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)

    def fetched(from_offset):
        state.position = from_offset
        unpacked = PartitionRecords(
            tp, MemoryRecords(packed), [], from_offset, marker, None,
            check_crcs=True, isolation_level=READ_COMMITTED,
        )  # fmt: skip
        return FetchResult(tp, assignment=assignment, partition_records=unpacked, backoff=0)

    result, pieces = fetched(1), []
    while result.has_more():
        pieces.append(([record.offset for record in result.getall(2)], state.position))
    assert pieces == [([1, 2], 3), ([3, 4], 5), ([5], 6)]

    assert len(fetched(1).getall()) == 5
    # What was read is no longer where the client is.
    moved = fetched(1)
    state.position = 4
    assert (moved.getall(), moved.has_more(), state.position) == ([], False, 4)
