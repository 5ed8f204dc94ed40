"""Records of the usual form are read at a lower cost, and never otherwise than all others."""

import json
import random

import pytest

from consumer import readers
from consumer.decoding import Vocabulary, decode
from consumer.envelopes import instant_from
from consumer.readers import _Instants, decoder_for
from metering.catalog import shipped_catalog
from metering.errors import Rejected

VOCABULARY = Vocabulary.of(shipped_catalog())
USUAL = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/services/workflow",
    "type": "workflow.executed",
    "subject": "c-1",
    "time": "2025-01-15T12:00:00.123Z",
    "data": {"actions": 3},
}
DATA = [
    ("workflow.executed", {"actions": 3}),
    ("marketing.sent", {"messages": 250_000}),
    ("message.sent", {"kind": "sms", "count": 2}),
    ("message.sent", {"kind": "sms", "count": 2, "provider": "twilio"}),
    ("message.sent", {"kind": "global_sms", "count": 1, "country": "JP", "text": "가나다"}),
    ("mu.counted", {"count": 0}),
    ("seat.assigned", {"seat": "basic", "manager": "m-1"}),
    ("seat.released", {"seat": "operator", "manager": "m-1"}),
    ("usage.voided", {"source": "/services/workflow", "id": "e-1", "reason": "twice"}),
    ("channel.changed", {"plan": "growth"}),
    ("workflow.exploded", {"actions": 3}),
    ("workflow.executed", {"actions": 1.0}),
    ("workflow.executed", {"actions": 10**9 + 1}),
    ("message.sent", {"kind": "fax", "count": 2}),
]
TIMES = [
    "2025-01-15T12:00:00Z",
    "2025-01-15t12:00:00z",
    "2025-01-15T12:00:59.9999999Z",
    "2025-01-15T12:00:60Z",
    "2025-01-15T12:00:00",
    "2025-01-15 12:00:00Z",
    "2025-01-15T12:00:00+05:45",
    "2025-01-15T12:00:00-23:59",
    "2025-01-15T12:00:00+24:00",
    "2025-01-15T24:00:00Z",
    "2025-02-29T12:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "",
    None,
    5,
]
ATTRIBUTES = [
    {},
    {"datacontenttype": "application/json"},
    {"traceparent": "00-ab-cd-01", "sequence": 5},
    {"specversion": "0.3"},
    {"specversion": None},
    {"id": ""},
    {"id": "x" * 255},
    {"id": "x" * 256},
    {"id": 5},
    {"subject": "채널 1"},
    {"source": None},
    {"padding": "x" * 70_000},
    {"sequence": 2**64},
    {"id": "a\0b"},
    {"id": "a\\u0000b"},
    {"id": "e\ud800"},
    {"time": None},
]


def outcome(read, *arguments):
    try:
        return read(*arguments)
    except Rejected as rejected:
        return rejected.reason, rejected.detail


def assert_read_alike(read, topic, value, headers=()):
    kind = {"billing.commands": "commands", "usage.mu": "usage"}.get(topic, "others")
    wanted = outcome(decode, kind, value, headers, VOCABULARY)
    # Twice, as what was seen before is read in another way.
    assert [outcome(read, topic, value, headers) for _ in range(2)] == [wanted] * 2


@pytest.fixture
def read():
    return decoder_for(shipped_catalog(), commands_topic="billing.commands")


@pytest.mark.parametrize(("kind", "data"), DATA)
@pytest.mark.parametrize("topic", ["usage.mu", "billing.commands", "billing.notices"])
def test_every_type_is_read_alike_with_any_attributes_and_times(read, topic, kind, data):
    for attributes in ATTRIBUTES:
        for time in TIMES:
            event = {**USUAL, "type": kind, "data": data, "time": time, **attributes}
            assert_read_alike(read, topic, json.dumps(event).encode())


@pytest.mark.parametrize("kind", ["workflow.executed", "channel.changed"])
def test_nothing_belongs_on_a_topic_that_is_neither_of_usage_nor_of_commands(read, kind):
    event = {**USUAL, "type": kind, "data": {"actions": 3, "plan": "growth"}}

    reason, _ = outcome(read, "billing.notices", json.dumps(event).encode(), ())

    assert reason == "wrong_topic"


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"[]",
        b"\xef\xbb\xbf{}",
        b'{"data":{"actions":3},"data":{"actions":4}}',
        b"{}{}",
        b"[" * 60_000,
        b'{"data":' + b"[" * 60_000,
    ],
)
def test_what_is_no_event_is_read_alike(read, value):
    assert_read_alike(read, "usage.mu", value)


def test_of_a_repeated_key_the_last_counts(read):
    value = json.dumps(USUAL)[:-1] + ', "id": "e-2", "data": {"actions": 4}}'

    assert_read_alike(read, "usage.mu", value.encode())


def test_an_event_in_its_headers_is_read_alike(read):
    headers = [(f"ce_{name}", str(text).encode()) for name, text in USUAL.items() if name != "data"]

    assert_read_alike(read, "usage.mu", b'{"actions": 3}', headers)
    assert_read_alike(read, "usage.mu", json.dumps(USUAL).encode(), [("trace", b"1")])


def test_bytes_that_are_changed_anywhere_are_read_alike(read):
    draw = random.Random(7)
    pieces = [
        b"\x00",
        b"\n",
        b"\xff",
        b"\xed\xa0\x80",
        b'"',
        b"{",
        b"\\",
        b"\\u0000",
        b"9" * 20,
        b" ",
    ]
    for _ in range(20_000):
        kind, data = draw.choice(DATA)
        event = {**USUAL, "type": kind, "data": data, "time": draw.choice(TIMES[:8])}
        value = bytearray(json.dumps(event, ensure_ascii=False).encode())
        for _ in range(draw.randrange(3)):
            place = draw.randrange(len(value))
            if draw.randrange(2):
                value[place] = draw.randrange(256)
            else:
                value[place : place + draw.randrange(3)] = draw.choice(pieces)
        assert_read_alike(read, "usage.mu", bytes(value))


def test_a_time_is_read_alike_whatever_parts_it_is_put_together_from():
    draw = random.Random(7)
    known = _Instants()
    days = ["2026-02-28T", "2026-02-30T", "2024-02-29t", "0001-01-01T", "2026-02-28 "]
    minutes = ["09:30:", "00:00:", "23:59:", "24:00:", "09:60:", "9:30:", "-9:30:", "09.30:"]
    seconds = ["00", "59", "60", "1", "x1", "1x", "\N{ARABIC-INDIC DIGIT ONE}0"]
    fractions = ["", ".5", ".123", ".1234567", ".999999999", ".123456789012", ".", ",5", ".\u0661"]
    zones = ["Z", "z", "+09:00", "-03:30", "+09:61", "", "456Z", " Z"]
    read = 0
    for _ in range(60_000):
        parts = [draw.choice(each) for each in (days, minutes, seconds, fractions, zones)]

        instant = known.of("".join(parts))

        assert instant == instant_from("".join(parts)), parts
        read += instant is not None
    assert read > 1_000


def test_names_of_channels_are_kept_once_and_not_for_ever(read, monkeypatch):
    monkeypatch.setattr(readers, "CHANNELS_MAX", 2)
    names = ["a", "a", "a", "b", "c", "d", "c"]
    found = [
        read("usage.workflow", json.dumps({**USUAL, "subject": name}).encode(), ())
        for name in names
    ]

    assert [event.channel for event in found] == names
    # The first of its kind is read by the general decoder.
    assert found[1].channel is found[2].channel
    assert len(read._channels) <= 2
