"""What each message means, and of which it is said why it cannot be counted."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from consumer.decoding import Vocabulary, decode, instant_from
from metering.commands import (
    CancelReservation,
    Change,
    ChangeReservation,
    Command,
    Purchase,
    Refund,
    Register,
    Schedule,
    SetLimit,
    SetRenewal,
)
from metering.errors import Rejected
from metering.events import Count, Reading, Tariff, Void, digest_of
from metering.periods import END_OF_MONTH, instant_of

VOCABULARY = Vocabulary(
    plans=frozenset({"free", "trial", "early_stage", "growth", "enterprise"}),
    products=frozenset({"mu", "basic_seat", "workflow", "pu", "white_label"}),
    message_kinds=frozenset({"kakao_infotalk", "kakao_cstalk", "sms", "lms", "global_sms"}),
    countries=frozenset({"US", "CA", "JP"}),
)
NOON = instant_of(datetime(2025, 1, 15, 12, tzinfo=UTC))
LONGEST = "가" * 255
TOO_LONG = "a" * 256
TWILIO = {"provider": "twilio"}
GLOBAL = {"kind": "global_sms", "count": 1, "country": "US"}
ONE_SEGMENT = GLOBAL | {"segments": 1}
PURCHASE = {"lot": "l-1", "product": "mu", "quantity": 2000}
REGISTRATION = {"plan": "growth", "time_zone": "Asia/Seoul", "billing_day": 1}

GOOD_DATA = {
    "mu.counted": {"count": 4500},
    "seat.assigned": {"seat": "basic", "manager": "m-17"},
    "seat.released": {"seat": "operator", "manager": "m-17"},
    "workflow.executed": {"actions": 3},
    "marketing.sent": {"messages": 250_000},
    "message.sent": {"kind": "sms", "count": 1},
    "usage.voided": {"source": "/services", "id": "e-1", "reason": "sent twice"},
    "channel.registered": REGISTRATION,
    "channel.changed": {"plan": "growth"},
    "limit.set": {"product": "mu", "limit": 5000},
    "lot.purchased": PURCHASE,
    "lot.scheduled": PURCHASE,
    "reservation.changed": {"lot": "l-1", "quantity": 3000},
    "reservation.cancelled": {"lot": "l-1"},
    "lot.renewal_set": {"lot": "l-1", "renew": False},
    "lot.refunded": {"lot": "l-1"},
}
USAGE_TYPES = tuple(GOOD_DATA)[:7]
COMMAND_TYPES = tuple(GOOD_DATA)[7:]


def an_event(kind="workflow.executed", data=None, **attributes):
    return {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/services/x",
        "type": kind,
        "subject": "c-1",
        "time": "2025-01-15T12:00:00Z",
        "data": GOOD_DATA.get(kind, {}) if data is None else data,
    } | attributes


def without(fields, *names):
    return {name: value for name, value in fields.items() if name not in names}


def decoded(event, *, topic_class=None, headers=()):
    """Decode an event, on a topic of its own class unless told."""
    if topic_class is None:
        is_command = isinstance(event, dict) and event.get("type") in COMMAND_TYPES
        topic_class = "commands" if is_command else "usage"
    value = event if isinstance(event, bytes | None) else json.dumps(event).encode()
    return decode(topic_class, value, headers, VOCABULARY)


def rejection(event, *, topic_class=None, headers=()):
    with pytest.raises(Rejected) as caught:
        decoded(event, topic_class=topic_class, headers=headers)
    return caught.value


def content(kind, data, **attributes):
    """What is compared with a copy: the instant stands beside the digest."""
    message = decoded(an_event(kind, data, **attributes))
    return message.content, message.at


def a_count(product, units, tariff=None):
    return Count("c-1", digest_of("c-1", "/services/x", "e-1"), b"", NOON, product, units, tariff)


def a_reading(product, level, person=b""):
    digest = digest_of("c-1", "/services/x", "e-1")
    return Reading("c-1", digest, b"", NOON, product, person, level)


def a_message(units, tariff):
    return a_count("pu", units, tariff)


# What is understood.


@pytest.mark.parametrize(
    ("kind", "data", "event"),
    [
        ("mu.counted", {"count": 4500}, a_reading("mu", 4500)),
        ("mu.counted", {"count": 0}, a_reading("mu", 0)),
        ("mu.counted", {"count": 10**9}, a_reading("mu", 10**9)),
        (
            "seat.assigned",
            {"seat": "basic", "manager": "m-17"},
            a_reading("basic_seat", 1, digest_of("m-17")),
        ),
        (
            "seat.released",
            {"seat": "operator", "manager": LONGEST},
            a_reading("operator_seat", 0, digest_of(LONGEST)),
        ),
        ("workflow.executed", {"actions": 3}, a_count("workflow", 3)),
        ("workflow.executed", {"actions": 10**9}, a_count("workflow", 10**9)),
        ("marketing.sent", {"messages": 250_000}, a_count("marketing", 250_000)),
        ("message.sent", {"kind": "sms", "count": 1}, a_message(1, Tariff("sms"))),
        ("message.sent", {"kind": "lms", "count": 10**6}, a_message(10**6, Tariff("lms"))),
        (
            "message.sent",
            GLOBAL | {"segments": 255},
            a_message(1, Tariff("global_sms", "US", 255)),
        ),
        (
            "message.sent",
            GLOBAL | {"country": "JP", "text": "€" * 81},
            a_message(1, Tariff("global_sms", "JP", 2)),
        ),
        # As many segments as there are: the bound is only for what the producer says.
        (
            "message.sent",
            GLOBAL | {"text": "a" * 153 * 256},
            a_message(1, Tariff("global_sms", "US", 256)),
        ),
        # With segments the text is not looked at, and neither is looked at of other kinds.
        (
            "message.sent",
            GLOBAL | {"segments": 2, "text": ""},
            a_message(1, Tariff("global_sms", "US", 2)),
        ),
        (
            "message.sent",
            GLOBAL | {"segments": 2, "text": 7},
            a_message(1, Tariff("global_sms", "US", 2)),
        ),
        (
            "message.sent",
            {"kind": "sms", "count": 1, "country": 7, "segments": -1, "text": ""},
            a_message(1, Tariff("sms")),
        ),
        (
            "message.sent",
            {"kind": "sms", "count": 2} | TWILIO,
            a_message(2, Tariff("sms", free=True)),
        ),
        (
            "message.sent",
            GLOBAL | TWILIO | {"country": "XX", "segments": 3},
            a_message(1, Tariff("global_sms", "XX", 3, free=True)),
        ),
        (
            "message.sent",
            {"kind": "sms", "count": 1, "provider": "Twilio"},
            a_message(1, Tariff("sms")),
        ),
        (
            "message.sent",
            {"kind": "sms", "count": 1, "provider": LONGEST},
            a_message(1, Tariff("sms")),
        ),
    ],
)
def test_usage_means_what_its_type_says(kind, data, event):
    assert replace(decoded(an_event(kind, data)), content=b"") == event


def test_a_void_names_an_event_of_its_own_channel():
    void = decoded(an_event("usage.voided", {"source": "/s", "id": "e-7", "reason": "twice"}))

    assert void == Void(
        "c-1",
        digest_of("c-1", "/services/x", "e-1"),
        void.content,
        NOON,
        digest_of("c-1", "/s", "e-7"),
    )


@pytest.mark.parametrize(
    ("kind", "data", "order"),
    [
        ("channel.registered", REGISTRATION, Register("growth", "Asia/Seoul", 1)),
        (
            "channel.registered",
            REGISTRATION | {"billing_day": 27, "trial_ends_on": "2026-12-01"},
            Register("growth", "Asia/Seoul", 27, date(2026, 12, 1)),
        ),
        (
            "channel.registered",
            {
                "plan": "trial",
                "time_zone": "UTC",
                "billing_day": "end",
                "trial_ends_on": "2024-02-29",
            },
            Register("trial", "UTC", END_OF_MONTH, date(2024, 2, 29)),
        ),
        ("channel.changed", {"plan": "trial"}, Change(plan="trial")),
        ("channel.changed", {"billing_day": "end"}, Change(billing_day=END_OF_MONTH)),
        (
            "channel.changed",
            {"trial_ends_on": "2026-12-01"},
            Change(trial_ends_on=date(2026, 12, 1)),
        ),
        (
            "channel.changed",
            {"plan": "free", "billing_day": 5, "trial_ends_on": "2026-12-01", "time_zone": 7},
            Change("free", 5, date(2026, 12, 1)),
        ),
        ("limit.set", {"product": "mu", "limit": 0}, SetLimit("mu", 0)),
        ("limit.set", {"product": "pu", "limit": 10**12}, SetLimit("pu", 10**12)),
        ("limit.set", {"product": "mu", "limit": None}, SetLimit("mu", None)),
        ("lot.purchased", PURCHASE, Purchase("l-1", "mu", 2000, renew=True)),
        ("lot.purchased", PURCHASE | {"renew": False}, Purchase("l-1", "mu", 2000, renew=False)),
        ("lot.purchased", PURCHASE | {"lot": LONGEST}, Purchase(LONGEST, "mu", 2000)),
        # Out of bounds is a refusal, not a rejection.
        ("lot.purchased", PURCHASE | {"quantity": 0}, Purchase("l-1", "mu", 0)),
        ("lot.purchased", PURCHASE | {"quantity": 2**63 - 1}, Purchase("l-1", "mu", 2**63 - 1)),
        ("lot.purchased", PURCHASE | {"quantity": -(2**63)}, Purchase("l-1", "mu", -(2**63))),
        ("lot.scheduled", PURCHASE | {"renew": True}, Schedule("l-1", "mu", 2000, renew=True)),
        ("reservation.changed", {"lot": "l", "quantity": -1}, ChangeReservation("l", -1)),
        (
            "reservation.changed",
            {"lot": "l", "renew": True},
            ChangeReservation("l", None, renew=True),
        ),
        (
            "reservation.changed",
            {"lot": "l-1", "quantity": 3000, "renew": False},
            ChangeReservation("l-1", 3000, renew=False),
        ),
        ("reservation.cancelled", {"lot": "l-1"}, CancelReservation("l-1")),
        # Renewed lots can be named, and so can what is no reservation.
        ("reservation.cancelled", {"lot": "l-1~2"}, CancelReservation("l-1~2")),
        ("reservation.changed", {"lot": "l~2", "quantity": 1}, ChangeReservation("l~2", 1)),
        ("lot.renewal_set", {"lot": "l-1~2", "renew": False}, SetRenewal("l-1~2", renew=False)),
        ("lot.refunded", {"lot": "l-1~2"}, Refund("l-1~2")),
    ],
)
def test_a_command_means_what_its_type_says(kind, data, order):
    command = decoded(an_event(kind, data))

    digest = digest_of("c-1", "/services/x", "e-1")
    assert command == Command("c-1", digest, command.content, NOON, "e-1", order)


@pytest.mark.parametrize("kind", GOOD_DATA)
def test_unknown_keys_are_ignored(kind):
    plain = an_event(kind)

    odd = an_event(kind, GOOD_DATA[kind] | {"note": [1.5, None, {"a": True}]}, traceparent="00-ab")

    assert decoded(odd) == decoded(plain)


def test_of_a_repeated_key_the_last_counts():
    value = json.dumps(an_event()).encode()

    twice = value.replace(b'{"actions": 3}', b'{"actions": "x", "actions": 3}')
    wrong = value.replace(b'{"actions": 3}', b'{"actions": 3, "actions": "x"}')

    assert decoded(twice) == decoded(value)
    assert rejection(wrong).reason == "malformed"


def test_specversion_may_be_absent():
    assert decoded(without(an_event(), "specversion")) == decoded(an_event())


def test_names_of_255_characters_are_kept_whole():
    event = decoded(an_event(subject=LONGEST, source=LONGEST, id=LONGEST))

    assert event.channel == LONGEST
    assert event.digest == digest_of(LONGEST, LONGEST, LONGEST)


# What is malformed.


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"{",
        b"{}",
        b"{} {}",
        b"not json",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": "\xff"}',
        b"[" * 2000 + b"]" * 2000,
        json.dumps(an_event()).encode("utf-16"),
        json.dumps([an_event()]).encode(),
    ],
)
def test_what_is_no_json_object_with_the_attributes_of_an_event_is_malformed(value):
    assert rejection(value).reason == "malformed"


@pytest.mark.parametrize("name", ["id", "source", "subject"])
@pytest.mark.parametrize("value", [None, "", 7, True, ["a"], {"a": "b"}, TOO_LONG])
def test_id_source_and_subject_are_texts_of_1_to_255_characters(name, value):
    assert rejection(an_event(**{name: value})).reason == "malformed"


@pytest.mark.parametrize("name", ["id", "source", "subject", "type", "time", "data"])
def test_an_attribute_that_is_missing_is_malformed(name):
    assert rejection(without(an_event(), name)).reason == "malformed"


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": None},
        {"type": ""},
        {"type": 7},
        {"type": ["workflow.executed"]},
        {"specversion": "0.3"},
        {"specversion": "1"},
        {"specversion": 1.0},
        {"specversion": None},
        {"time": None},
        {"time": 1736942400},
        {"data": None},
        {"data": "{}"},
        {"data": []},
        {"data": 3},
    ],
)
def test_an_attribute_of_the_wrong_type_is_malformed(attributes):
    assert rejection(an_event() | attributes).reason == "malformed"


@pytest.mark.parametrize("wrong", [None, True, 3.0, "3", [3], {}, -1, 10**9 + 1, 2**63, -(2**70)])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("mu.counted", "count"),
        ("workflow.executed", "actions"),
        ("marketing.sent", "messages"),
        ("message.sent", "count"),
    ],
)
def test_a_count_is_an_integer_in_its_bounds(kind, name, wrong):
    assert rejection(an_event(kind, GOOD_DATA[kind] | {name: wrong})).reason == "malformed"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("workflow.executed", {"actions": 0}),
        ("marketing.sent", {"messages": 0}),
        ("message.sent", {"kind": "sms", "count": 0}),
        ("message.sent", {"kind": "sms", "count": 10**6 + 1}),
        ("message.sent", {"kind": "", "count": 1}),
        ("message.sent", {"kind": 7, "count": 1}),
        ("message.sent", {"kind": ["sms"], "count": 1}),
        ("message.sent", {"kind": TOO_LONG, "count": 1}),
        ("message.sent", {"kind": "sms", "count": 1, "provider": None}),
        ("message.sent", {"kind": "sms", "count": 1, "provider": ""}),
        ("message.sent", {"kind": "sms", "count": 1, "provider": TOO_LONG}),
        ("message.sent", GLOBAL),
        ("message.sent", GLOBAL | TWILIO),
        ("message.sent", GLOBAL | {"text": None}),
        ("message.sent", GLOBAL | {"text": 7}),
        ("message.sent", GLOBAL | {"segments": None, "text": "a"}),
        ("message.sent", GLOBAL | {"segments": 0}),
        ("message.sent", GLOBAL | {"segments": 256}),
        ("message.sent", GLOBAL | {"segments": 1.0}),
        ("message.sent", GLOBAL | {"segments": True}),
        ("message.sent", GLOBAL | {"segments": "1"}),
        ("message.sent", without(ONE_SEGMENT, "country")),
        ("message.sent", without(ONE_SEGMENT, "country") | TWILIO),
        ("message.sent", ONE_SEGMENT | {"country": ""}),
        ("message.sent", ONE_SEGMENT | {"country": None}),
        ("message.sent", ONE_SEGMENT | {"country": ["US"]}),
        ("message.sent", ONE_SEGMENT | {"country": TOO_LONG}),
        ("seat.assigned", {"seat": "observer", "manager": "m-17"}),
        ("seat.assigned", {"seat": "basic_seat", "manager": "m-17"}),
        ("seat.assigned", {"seat": ["basic"], "manager": "m-17"}),
        ("seat.assigned", {"seat": "basic", "manager": ""}),
        ("seat.released", {"seat": "basic", "manager": TOO_LONG}),
        ("seat.released", {"seat": "basic", "manager": 17}),
        ("usage.voided", {"source": "", "id": "e-1", "reason": "twice"}),
        ("usage.voided", {"source": "/s", "id": TOO_LONG, "reason": "twice"}),
        ("usage.voided", {"source": "/s", "id": "e-1", "reason": ""}),
        ("usage.voided", {"source": "/s", "id": "e-1", "reason": TOO_LONG}),
        ("usage.voided", {"source": "/s", "id": "e-1", "reason": None}),
        ("channel.registered", REGISTRATION | {"plan": "gold"}),
        ("channel.registered", REGISTRATION | {"plan": ["growth"]}),
        ("channel.registered", REGISTRATION | {"plan": "trial"}),
        ("channel.registered", REGISTRATION | {"trial_ends_on": None}),
        ("channel.registered", REGISTRATION | {"time_zone": "Asia/Atlantis"}),
        ("channel.registered", REGISTRATION | {"time_zone": "+09:00"}),
        ("channel.registered", REGISTRATION | {"time_zone": "../zoneinfo/UTC"}),
        ("channel.registered", REGISTRATION | {"time_zone": "Asia"}),
        ("channel.registered", REGISTRATION | {"time_zone": ""}),
        ("channel.registered", REGISTRATION | {"time_zone": 9}),
        ("channel.registered", REGISTRATION | {"billing_day": 0}),
        ("channel.registered", REGISTRATION | {"billing_day": 28}),
        ("channel.registered", REGISTRATION | {"billing_day": 31}),
        ("channel.registered", REGISTRATION | {"billing_day": True}),
        ("channel.registered", REGISTRATION | {"billing_day": "1"}),
        ("channel.registered", REGISTRATION | {"billing_day": "END"}),
        ("channel.registered", REGISTRATION | {"billing_day": ["end"]}),
        ("channel.changed", {}),
        ("channel.changed", {"time_zone": "Asia/Seoul"}),
        ("channel.changed", {"plan": None}),
        ("channel.changed", {"plan": "growth", "billing_day": None}),
        ("channel.changed", {"plan": "growth", "trial_ends_on": None}),
        ("limit.set", {"product": "mu"}),
        ("limit.set", {"product": "mu", "limit": -1}),
        ("limit.set", {"product": "mu", "limit": 10**12 + 1}),
        ("limit.set", {"product": "mu", "limit": False}),
        ("limit.set", {"product": "mu", "limit": 5.0}),
        ("limit.set", {"product": "fax", "limit": 5}),
        ("limit.set", {"product": None, "limit": 5}),
        ("lot.purchased", PURCHASE | {"lot": "l-1~2"}),
        ("lot.purchased", PURCHASE | {"lot": ""}),
        ("lot.purchased", PURCHASE | {"lot": TOO_LONG}),
        ("lot.purchased", PURCHASE | {"product": "fax"}),
        ("lot.purchased", PURCHASE | {"quantity": 2000.0}),
        ("lot.purchased", PURCHASE | {"quantity": "2000"}),
        ("lot.purchased", PURCHASE | {"quantity": True}),
        ("lot.purchased", PURCHASE | {"quantity": None}),
        ("lot.purchased", PURCHASE | {"quantity": 2**63}),
        ("lot.purchased", PURCHASE | {"quantity": -(2**63) - 1}),
        ("lot.purchased", PURCHASE | {"quantity": 2**64}),
        ("lot.purchased", PURCHASE | {"renew": None}),
        ("lot.purchased", PURCHASE | {"renew": 1}),
        ("lot.scheduled", PURCHASE | {"lot": "~"}),
        ("lot.scheduled", PURCHASE | {"renew": "true"}),
        ("reservation.changed", {"lot": "l-1"}),
        ("reservation.changed", {"lot": "l-1", "quantity": None, "renew": True}),
        ("reservation.changed", {"lot": "l-1", "quantity": 1, "renew": None}),
        ("reservation.changed", {"quantity": 1}),
        ("reservation.cancelled", {"lot": 1}),
        ("lot.renewal_set", {"lot": "l-1"}),
        ("lot.renewal_set", {"lot": "l-1", "renew": 0}),
        ("lot.refunded", {"lot": None}),
    ],
)
def test_data_that_is_not_as_documented_is_malformed(kind, data):
    assert rejection(an_event(kind, data)).reason == "malformed"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind, data in GOOD_DATA.items()
        for name in data
        if kind != "channel.changed"
    ],
)
def test_every_key_that_is_shown_is_required(kind, name):
    data = without(GOOD_DATA[kind], name)

    assert rejection(an_event(kind, data)).reason == "malformed"


@pytest.mark.parametrize(
    "day",
    [
        "2026-12-1",
        "20261201",
        "2026-W01-1",
        "2026-02-29",
        "2026-13-01",
        "0000-01-01",
        "2026-12-01T00:00:00Z",
        " 2026-12-01",
        "\uff12\uff10\uff12\uff16-12-01",
        20261201,
    ],
)
def test_a_day_is_written_in_one_way_only(day):
    change = an_event("channel.changed", {"trial_ends_on": day})

    assert rejection(change).reason == "malformed"


# What is malformed wherever it stands.


@pytest.mark.parametrize("sign", [b"", b"-"])
@pytest.mark.parametrize(
    "digits",
    [
        b"18446744073709551616",
        pytest.param(b"1" + b"0" * 300, id="301 digits"),
        pytest.param(b"1" + b"0" * 5000, id="5001 digits"),
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        b'{"note": %b}',
        b'{"note": [1, {"deep": [%b]}]}',
        b'{"note": %b, "note": 1}',
        b'{"note":[%b,"escaped \\" quote"]}',
    ],
)
def test_an_integer_that_does_not_fit_64_bits_is_malformed_anywhere(sign, digits, place):
    odd = place % (sign + digits)
    data = odd.replace(b'{"note"', b'{"actions": 3, "note"')
    in_data = json.dumps(an_event()).encode().replace(b'{"actions": 3}', data)
    outside = json.dumps(an_event()).encode()[:-1] + b', "extension": ' + odd + b"}"

    assert rejection(in_data).reason == "malformed"
    assert rejection(outside).reason == "malformed"


@pytest.mark.parametrize(
    "harmless",
    [
        2**63 - 1,
        2**64 - 1,
        -(2**63),
        "99999999999999999999",
        'quoted "99999999999999999999, 99999999999999999999',
        "\\",
        '\\"99999999999999999999',
        1e300,
        0.12345678901234567890,
        {"99999999999999999999": 1},
    ],
)
def test_what_fits_64_bits_or_is_no_integer_is_not_mistaken_for_one_that_does_not(harmless):
    event = an_event(data={"actions": 3, "note": harmless})

    assert decoded(event) == decoded(an_event())


@pytest.mark.parametrize(
    "float_text", [b"12345678901234567890.5", b"0.12345678901234567890", b"1e-1234567890123456789"]
)
def test_a_float_of_many_digits_is_ignored_under_an_unknown_key(float_text):
    value = json.dumps(an_event()).encode()

    odd = value.replace(b'{"actions": 3}', b'{"actions": 3, "note": %b}' % float_text)

    assert decoded(odd) == decoded(value)


@pytest.mark.parametrize(
    "event",
    [
        an_event(id="a\0b"),
        an_event(subject="\0"),
        an_event(type="x\0"),
        an_event(data={"actions": 3, "note": "a\0b"}),
        an_event(data={"actions": 3, "no\0te": 1}),
        an_event(extension=["\\\0"]),
        an_event("message.sent", GLOBAL | {"text": "a\0b"}),
        an_event("message.sent", GLOBAL | {"segments": 1, "text": "a\0b"}),
    ],
)
def test_a_nul_is_malformed_anywhere(event):
    assert rejection(event).reason == "malformed"


def test_a_nul_under_a_repeated_key_is_malformed_too():
    value = json.dumps(an_event()).encode()

    odd = value.replace(b'{"actions": 3}', b'{"actions": "\\u0000", "actions": 3}')

    assert rejection(odd).reason == "malformed"


@pytest.mark.parametrize("text", ["\\u0000", "a\\\\u0000", "u0000"])
def test_a_backslash_before_u0000_is_no_nul(text):
    assert decoded(an_event(source=text)).digest == digest_of("c-1", text, "e-1")


@pytest.mark.parametrize(
    "event",
    [
        an_event(id="\ud800"),
        an_event(data={"actions": 3, "note": "\udc00"}),
        an_event("message.sent", GLOBAL | {"text": "\ude00\ud83d"}),
    ],
)
def test_a_lone_surrogate_is_malformed_anywhere(event):
    assert rejection(event).reason == "malformed"


# Times.


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-01-15T12:00:00Z", datetime(2025, 1, 15, 12, tzinfo=UTC)),
        ("2025-01-15t12:00:00z", datetime(2025, 1, 15, 12, tzinfo=UTC)),
        ("2025-01-15T21:00:00+09:00", datetime(2025, 1, 15, 12, tzinfo=UTC)),
        ("2025-01-15T21:00:00.250+09:00", datetime(2025, 1, 15, 12, 0, 0, 250_000, tzinfo=UTC)),
        ("2025-01-15T12:00:00-00:00", datetime(2025, 1, 15, 12, tzinfo=UTC)),
        ("2025-01-14T12:01:00-23:59", datetime(2025, 1, 15, 12, tzinfo=UTC)),
        ("2025-01-15T12:00:00.5Z", datetime(2025, 1, 15, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2025-01-15T12:00:00.1234567Z", datetime(2025, 1, 15, 12, 0, 0, 123_456, tzinfo=UTC)),
        ("2025-01-15T12:00:00.999999999Z", datetime(2025, 1, 15, 12, 0, 0, 999_999, tzinfo=UTC)),
        (
            "2025-01-15T12:00:00." + "9" * 30 + "z",
            datetime(2025, 1, 15, 12, 0, 0, 999_999, tzinfo=UTC),
        ),
        ("2024-02-29T23:59:59Z", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
        ("1969-12-31T23:59:59.999999Z", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("0002-01-01T00:00:00Z", datetime(2, 1, 1, tzinfo=UTC)),
        ("9996-12-31T23:59:59.999999Z", datetime(9996, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_as_its_instant(text, moment):
    assert instant_from(text) == instant_of(moment)
    assert decoded(an_event(time=text)).at == instant_of(moment)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2025-01-15",
        "2025-01-15T12:00:00",
        "2025-01-15T12:00Z",
        "2025-01-15T12Z",
        "2025-01-15 12:00:00Z",
        "2025-01-15_12:00:00Z",
        "20250115T120000Z",
        "2025-W03-3T12:00:00Z",
        "2025-01-15T12:00:00,5Z",
        "2025-01-15T12:00:00.Z",
        "2025-01-15T12:00:00+09",
        "2025-01-15T12:00:00+0900",
        "2025-01-15T12:00:00+09:00:00",
        "2025-01-15T12:00:00+24:00",
        "2025-01-15T12:00:00+09:60",
        "2025-01-15T12:00:00.5+09:99",
        "2025-01-15T12:00:00 Z",
        " 2025-01-15T12:00:00Z",
        "2025-01-15T12:00:00Z\n",
        "2025-01-15T12:00:60Z",
        "2016-12-31T23:59:60Z",
        "2025-01-15T12:60:00Z",
        "2025-01-15T24:00:00Z",
        "2025-01-15t24:00:00z",
        "2025-02-29T12:00:00Z",
        "2025-13-01T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "0002-01-01T00:00:00+00:01",
        "9997-01-01T00:00:00-00:01",
        "+2025-01-15T12:00:00Z",
        "12025-01-15T12:00:00Z",
        "\uff12\uff10\uff12\uff15-01-15T12:00:00Z",
        "2025-01-15T12:00:00\N{MINUS SIGN}09:00",
        "\ud800",
        None,
        1736942400,
        True,
        ["2025-01-15T12:00:00Z"],
    ],
)
def test_what_is_no_rfc_3339_time_with_an_offset_is_malformed(text):
    assert instant_from(text) is None
    assert rejection(an_event(time=text)).reason == "malformed"


# The other reasons, and which comes first.


def test_a_value_of_more_than_65536_bytes_is_too_large():
    event = an_event(data={"actions": 3, "note": ""})
    room = 65_536 - len(json.dumps(event))
    event["data"]["note"] = "a" * room
    largest = json.dumps(event).encode()

    assert len(largest) == 65_536
    assert decoded(largest) == decoded(an_event())
    assert rejection(largest + b" ").reason == "too_large"


def test_a_value_that_is_too_large_is_not_even_parsed():
    assert rejection(b"{" * 65_537).reason == "too_large"
    assert rejection(b"{" * 65_537, headers=[("ce_type", b"mail.sent")]).reason == "too_large"


@pytest.mark.parametrize("topic_class", ["usage", "commands"])
@pytest.mark.parametrize("data", [{}, None, "text", {"note": 1.5}])
@pytest.mark.parametrize("kind", ["mail.sent", "Workflow.Executed", TOO_LONG])
def test_data_of_an_unknown_type_is_not_looked_at_further(kind, data, topic_class):
    event = an_event() | {"type": kind, "data": data}

    assert rejection(event, topic_class=topic_class).reason == "unknown_type"
    assert rejection(without(event, "data"), topic_class=topic_class).reason == "unknown_type"


@pytest.mark.parametrize("broken", [{"time": "soon"}, {"id": ""}, {"extension": 2**64}])
def test_malformed_comes_before_an_unknown_type(broken):
    assert rejection(an_event("mail.sent") | broken).reason == "malformed"


@pytest.mark.parametrize("kind", GOOD_DATA)
def test_usage_belongs_on_usage_topics_and_commands_on_the_other(kind):
    wrong = "usage" if kind in COMMAND_TYPES else "commands"

    assert decoded(an_event(kind)).channel == "c-1"
    assert rejection(an_event(kind), topic_class=wrong).reason == "wrong_topic"


@pytest.mark.parametrize("kind", GOOD_DATA)
def test_malformed_comes_before_wrong_topic(kind):
    wrong = "usage" if kind in COMMAND_TYPES else "commands"

    assert rejection(an_event(kind, {"note": 1}), topic_class=wrong).reason == "malformed"
    assert rejection(an_event(kind) | {"data": 1}, topic_class=wrong).reason == "malformed"


@pytest.mark.parametrize("data", [GLOBAL | {"text": ""}, ONE_SEGMENT | {"country": "XX"}])
def test_wrong_topic_comes_before_an_empty_text_and_a_missing_price(data):
    assert rejection(an_event("message.sent", data), topic_class="commands").reason == "wrong_topic"


@pytest.mark.parametrize(
    "data",
    [
        GLOBAL | {"text": ""},
        GLOBAL | {"text": "", "country": "XX"},
        GLOBAL | {"text": ""} | TWILIO,
    ],
)
def test_an_empty_text_comes_before_a_missing_price(data):
    assert rejection(an_event("message.sent", data)).reason == "empty_text"


@pytest.mark.parametrize("broken", [{"count": 0}, {"provider": ""}, {"country": ""}])
def test_malformed_comes_before_an_empty_text(broken):
    data = GLOBAL | {"text": ""} | broken

    assert rejection(an_event("message.sent", data)).reason == "malformed"


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "fax", "count": 1},
        {"kind": "SMS", "count": 1},
        {"kind": LONGEST, "count": 1},
        {"kind": "fax", "count": 1} | TWILIO,
        ONE_SEGMENT | {"country": "AU"},
        ONE_SEGMENT | {"country": "us"},
        ONE_SEGMENT | {"country": "AU", "provider": "other"},
        GLOBAL | {"country": LONGEST, "text": "a"},
        # Other kinds do not know a text, so this one is not empty.
        {"kind": "fax", "count": 1, "text": ""},
    ],
)
def test_what_is_not_in_the_price_list_has_no_price(data):
    assert rejection(an_event("message.sent", data)).reason == "no_price"


@pytest.mark.parametrize(
    "broken", [{"count": "1"}, {"provider": 7}, {"segments": 0}, {"segments": None}]
)
def test_malformed_comes_before_a_missing_price(broken):
    data = ONE_SEGMENT | {"country": "AU"} | broken

    assert rejection(an_event("message.sent", data)).reason == "malformed"


# Binary mode.


def binary(event):
    """Write an event in binary mode: its attributes as headers, its data as value."""
    headers = [(f"ce_{name}", text.encode()) for name, text in without(event, "data").items()]
    return json.dumps(event["data"]).encode(), headers


@pytest.mark.parametrize("kind", GOOD_DATA)
def test_an_event_means_the_same_in_both_modes(kind):
    event = an_event(kind, id="이벤트-1")
    value, headers = binary(event)
    topic_class = "commands" if kind in COMMAND_TYPES else "usage"

    assert decoded(value, topic_class=topic_class, headers=headers) == decoded(event)


def test_the_header_of_the_type_decides_the_mode():
    value, headers = binary(an_event())
    structured = json.dumps(an_event()).encode()
    others = [header for header in headers if header[0] != "ce_type"]

    assert decoded(structured, headers=others) == decoded(an_event())
    assert decoded(structured, headers=[("content-type", b"\xff")]) == decoded(an_event())
    assert rejection(structured, headers=headers).reason == "malformed"
    assert rejection(value, headers=others).reason == "malformed"


def test_of_a_repeated_header_the_last_counts():
    value, headers = binary(an_event())

    event = decoded(value, headers=[("ce_id", b"first"), *headers, ("ce_id", b"last")])

    assert event.digest == digest_of("c-1", "/services/x", "last")
    assert rejection(value, headers=[*headers, ("ce_type", b"x")]).reason == "unknown_type"
    assert rejection(value, headers=[*headers, ("ce_id", None)]).reason == "malformed"


@pytest.mark.parametrize(
    "header",
    [
        ("ce_type", None),
        ("ce_type", b""),
        ("ce_id", b""),
        ("ce_id", b"\xff"),
        ("ce_id", b"a\0b"),
        ("ce_extension", b"\xff"),
        ("ce_extension", b"\0"),
        ("ce_specversion", b"0.3"),
        ("ce_specversion", b""),
        ("ce_time", b"soon"),
        ("ce_subject", TOO_LONG.encode()),
    ],
)
def test_a_header_of_an_attribute_is_checked_like_the_attribute(header):
    value, headers = binary(an_event())

    assert rejection(value, headers=[*headers, header]).reason == "malformed"


@pytest.mark.parametrize("header", [("trace", b"\xff\0"), ("trace", None), ("ce_extension", None)])
def test_headers_that_are_no_attributes_are_not_looked_at(header):
    value, headers = binary(an_event())

    assert decoded(value, headers=[*headers, header]) == decoded(an_event())


@pytest.mark.parametrize("value", [None, b"", b"x", b"[]", b"1", b'{"actions": 3, "n": "\\u0000"}'])
def test_in_binary_mode_the_value_is_the_data(value):
    _, headers = binary(an_event())

    assert rejection(value, headers=headers).reason == "malformed"
    assert rejection(value, headers=[*headers, ("ce_data", b"{}")]).reason == "malformed"


@pytest.mark.parametrize("value", [None, b"", b"[]", b"1"])
def test_an_unknown_type_needs_no_value_in_binary_mode(value):
    _, headers = binary(an_event("mail.sent"))

    assert rejection(value, headers=headers).reason == "unknown_type"


# Which contents are the same.


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("message.sent", GLOBAL | {"text": "a" * 161}, GLOBAL | {"segments": 2}),
        ("message.sent", GLOBAL | {"text": "가" * 71}, GLOBAL | {"text": "a" * 161}),
        ("message.sent", GLOBAL | {"text": "a", "segments": 2}, GLOBAL | {"segments": 2}),
        (
            "message.sent",
            {"kind": "sms", "count": 1, "country": "US", "segments": 2, "text": "a"},
            {"count": 1, "kind": "sms"},
        ),
        ("lot.purchased", PURCHASE, PURCHASE | {"renew": True}),
        ("lot.scheduled", PURCHASE, PURCHASE | {"renew": True, "note": 1}),
    ],
)
def test_what_is_understood_alike_is_the_same_content(kind, one, other):
    assert content(kind, one) == content(kind, other)


@pytest.mark.parametrize("kind", GOOD_DATA)
def test_other_attributes_and_the_way_of_writing_are_no_content(kind):
    data = GOOD_DATA[kind]
    turned = dict(reversed(data.items())) | {"note": 1}

    assert content(kind, data) == content(
        kind,
        turned,
        subject="c-2",
        source="/other",
        id="e-2",
        time="2025-01-15T21:00:00.0000009+09:00",
        traceparent="00-ab",
    )


@pytest.mark.parametrize("kind", GOOD_DATA)
def test_another_instant_is_another_content(kind):
    data = GOOD_DATA[kind]

    assert content(kind, data) != content(kind, data, time="2025-01-15T12:00:00.000001Z")


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("workflow.executed", {"actions": 3}, {"actions": 4}),
        ("mu.counted", {"count": 3}, {"count": 4}),
        ("seat.assigned", GOOD_DATA["seat.assigned"], {"seat": "operator", "manager": "m-17"}),
        ("seat.assigned", GOOD_DATA["seat.assigned"], {"seat": "basic", "manager": "m-18"}),
        ("message.sent", {"kind": "sms", "count": 1}, {"kind": "lms", "count": 1}),
        ("message.sent", {"kind": "sms", "count": 1}, {"kind": "sms", "count": 2}),
        ("message.sent", {"kind": "sms", "count": 1}, {"kind": "sms", "count": 1} | TWILIO),
        (
            "message.sent",
            {"kind": "sms", "count": 1},
            {"kind": "sms", "count": 1, "provider": "other"},
        ),
        ("message.sent", ONE_SEGMENT, ONE_SEGMENT | {"country": "CA"}),
        ("message.sent", ONE_SEGMENT, ONE_SEGMENT | {"segments": 2}),
        ("usage.voided", GOOD_DATA["usage.voided"], GOOD_DATA["usage.voided"] | {"source": "/"}),
        ("usage.voided", GOOD_DATA["usage.voided"], GOOD_DATA["usage.voided"] | {"id": "e-2"}),
        ("usage.voided", GOOD_DATA["usage.voided"], GOOD_DATA["usage.voided"] | {"reason": "no"}),
        ("channel.registered", REGISTRATION, REGISTRATION | {"plan": "free"}),
        ("channel.registered", REGISTRATION, REGISTRATION | {"time_zone": "UTC"}),
        ("channel.registered", REGISTRATION, REGISTRATION | {"billing_day": "end"}),
        ("channel.registered", REGISTRATION, REGISTRATION | {"trial_ends_on": "2026-12-01"}),
        ("channel.changed", {"plan": "free"}, {"plan": "free", "billing_day": 1}),
        ("limit.set", {"product": "mu", "limit": 0}, {"product": "mu", "limit": None}),
        ("limit.set", {"product": "mu", "limit": 0}, {"product": "pu", "limit": 0}),
        ("lot.purchased", PURCHASE, PURCHASE | {"renew": False}),
        ("lot.purchased", PURCHASE, PURCHASE | {"lot": "l-2"}),
        ("lot.purchased", PURCHASE, PURCHASE | {"quantity": -2000}),
        (
            "reservation.changed",
            {"lot": "l-1", "quantity": 1},
            {"lot": "l-1", "quantity": 1, "renew": True},
        ),
        ("lot.renewal_set", {"lot": "l-1", "renew": True}, {"lot": "l-1", "renew": False}),
    ],
)
def test_what_is_understood_differently_is_another_content(kind, one, other):
    assert content(kind, one) != content(kind, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("seat.assigned", "seat.released"),
        ("lot.purchased", "lot.scheduled"),
        ("reservation.cancelled", "lot.refunded"),
    ],
)
def test_the_same_data_of_another_type_is_another_content(one, other):
    assert content(one, GOOD_DATA[one]) != content(other, GOOD_DATA[one])


# What a rejection tells.


@pytest.mark.parametrize(
    "event",
    [
        an_event("message.sent", GLOBAL | {"text": "secret" * 9, "segments": "secret"}),
        an_event("message.sent", GLOBAL | {"text": ["secret"]}),
        an_event("message.sent", ONE_SEGMENT | {"country": "secret"}),
        an_event("message.sent", {"kind": "secret", "count": 1}),
        an_event("secret"),
        an_event(time="secret"),
        an_event(id=["secret"]),
        an_event("lot.purchased", PURCHASE | {"lot": "secret~"}),
        an_event("channel.registered", REGISTRATION | {"time_zone": "secret"}),
        an_event("channel.registered", REGISTRATION | {"plan": "secret"}),
        b'{"text": "secret',
        b'{"text": "secret\\u0000"}',
    ],
)
def test_a_rejection_never_quotes_what_the_record_holds(event):
    rejected = rejection(event)

    assert rejected.detail
    assert "secret" not in str(rejected)
    assert rejected.__cause__ is None
    assert rejected.__context__ is None or rejected.__suppress_context__
