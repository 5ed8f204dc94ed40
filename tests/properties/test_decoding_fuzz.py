"""Whatever bytes come, they become something valid or one rejection; contents compare as meant."""

import json
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import assume, example, given
from hypothesis import strategies as st

from consumer.decoding import Vocabulary, decode, instant_from
from metering.commands import Command
from metering.errors import Rejected
from metering.events import Count, Reading, Void
from metering.periods import instant_of
from metering.segments import segments_of

VOCABULARY = Vocabulary(
    plans=frozenset({"free", "trial", "growth"}),
    products=frozenset({"mu", "workflow", "pu"}),
    message_kinds=frozenset({"sms", "global_sms"}),
    countries=frozenset({"US", "JP"}),
)
REASONS = {"too_large", "malformed", "unknown_type", "wrong_topic", "empty_text", "no_price"}
TOPIC_CLASSES = st.sampled_from(["usage", "commands"])

NAMES = st.sampled_from(["a", "b", "a\x01", "가"])
FLAGS = st.booleans()
PROVIDERS = st.fixed_dictionaries({}, optional={"provider": st.sampled_from(["twilio", "other"])})
LOTS = {
    "lot": NAMES,
    "product": st.sampled_from(["mu", "pu"]),
    "quantity": st.sampled_from([-1, 0, 1, 2**63 - 1]),
}
DAYS = st.sampled_from(["2026-12-01", "2026-12-02"])
BILLING_DAYS = st.sampled_from([1, 27, "end"])
CHANGES = {
    "plan": st.sampled_from(["free", "growth"]),
    "billing_day": BILLING_DAYS,
    "trial_ends_on": DAYS,
}
# What the producer of each type may write, from pools so small that two often mean the same.
VALID_DATA = {
    "mu.counted": st.fixed_dictionaries({"count": st.integers(0, 2)}),
    "seat.assigned": st.fixed_dictionaries(
        {"seat": st.sampled_from(["basic", "operator"]), "manager": NAMES}
    ),
    "seat.released": st.fixed_dictionaries(
        {"seat": st.sampled_from(["basic", "operator"]), "manager": NAMES}
    ),
    "workflow.executed": st.fixed_dictionaries({"actions": st.integers(1, 3)}),
    "marketing.sent": st.fixed_dictionaries({"messages": st.integers(1, 3)}),
    "message.sent": st.one_of(
        st.builds(
            lambda data, provider: data | provider,
            st.fixed_dictionaries(
                {"kind": st.just("sms"), "count": st.integers(1, 2)},
                optional={"country": st.just("US"), "text": st.just("")},
            ),
            PROVIDERS,
        ),
        st.builds(
            lambda data, size, provider: data | size | provider,
            st.fixed_dictionaries(
                {
                    "kind": st.just("global_sms"),
                    "count": st.integers(1, 2),
                    "country": st.sampled_from(["US", "JP"]),
                }
            ),
            st.one_of(
                st.fixed_dictionaries(
                    {"segments": st.integers(1, 3)}, optional={"text": st.sampled_from(["", "a"])}
                ),
                st.fixed_dictionaries({"text": st.sampled_from(["a", "가" * 71, "a" * 161])}),
            ),
            PROVIDERS,
        ),
    ),
    "usage.voided": st.fixed_dictionaries({"source": NAMES, "id": NAMES, "reason": NAMES}),
    "channel.registered": st.fixed_dictionaries(
        {
            "plan": st.sampled_from(["free", "growth"]),
            "time_zone": st.sampled_from(["UTC", "Asia/Seoul"]),
            "billing_day": BILLING_DAYS,
        },
        optional={"trial_ends_on": DAYS},
    ),
    "channel.changed": st.fixed_dictionaries({}, optional=CHANGES).filter(bool),
    "limit.set": st.fixed_dictionaries(
        {"product": st.sampled_from(["mu", "pu"]), "limit": st.sampled_from([None, 0, 1])}
    ),
    "lot.purchased": st.fixed_dictionaries(LOTS, optional={"renew": FLAGS}),
    "lot.scheduled": st.fixed_dictionaries(LOTS, optional={"renew": FLAGS}),
    "reservation.changed": st.builds(
        lambda lot, change: {"lot": lot} | change,
        NAMES,
        st.fixed_dictionaries(
            {}, optional={"quantity": st.sampled_from([0, 1]), "renew": FLAGS}
        ).filter(bool),
    ),
    "reservation.cancelled": st.fixed_dictionaries({"lot": NAMES}),
    "lot.renewal_set": st.fixed_dictionaries({"lot": NAMES, "renew": FLAGS}),
    "lot.refunded": st.fixed_dictionaries({"lot": NAMES}),
}
USAGE_TYPES = tuple(VALID_DATA)[:7]
# One instant, written in three ways, and another.
TIMES = st.sampled_from(
    [
        "2025-01-15T12:00:00Z",
        "2025-01-15t12:00:00.0000009z",
        "2025-01-15T21:00:00+09:00",
        "2025-01-15T12:00:00.000001Z",
    ]
)


@st.composite
def valid_events(draw, kinds=tuple(VALID_DATA)):
    kind = draw(st.sampled_from(kinds))
    return {
        "specversion": "1.0",
        "id": draw(NAMES),
        "source": draw(NAMES),
        "type": kind,
        "subject": draw(NAMES),
        "time": draw(TIMES),
        "data": draw(VALID_DATA[kind]),
    }


def topic_class_of(event):
    return "usage" if event["type"] in USAGE_TYPES else "commands"


def outcome_of(topic_class, value, headers=()):
    """Decode; the answer is what was understood, or the reason and nothing else."""
    try:
        decoded = decode(topic_class, value, headers, VOCABULARY)
    except Rejected as rejected:
        return rejected.reason
    assert type(decoded) in ({Command} if topic_class == "commands" else {Count, Reading, Void})
    assert len(decoded.digest) == len(decoded.content) == 16
    return decoded


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**40])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "a" * 256, "\0", "\ud800", "end", "trial", "global_sms", "2026-12-01"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_type", "ce_id", "ce_source", "ce_subject", "ce_time", "ce_data", "x"]),
        st.none()
        | st.binary(max_size=20)
        | st.sampled_from([b"workflow.executed", b"lot.refunded", b"2025-01-15T12:00:00Z", b"a"]),
    ),
    max_size=9,
)


@given(TOPIC_CLASSES, st.none() | st.binary(max_size=200), HEADERS)
def test_of_any_bytes_only_a_rejection_can_leave(topic_class, value, headers):
    outcome = outcome_of(topic_class, value, headers)

    assert not isinstance(outcome, str) or outcome in REASONS


@given(TOPIC_CLASSES, JSON_VALUES, HEADERS)
def test_of_any_json_only_a_rejection_can_leave(topic_class, document, headers):
    outcome = outcome_of(topic_class, json.dumps(document).encode(), headers)

    assert not isinstance(outcome, str) or outcome in REASONS


@given(valid_events())
def test_what_a_producer_may_write_is_understood(event):
    decoded = outcome_of(topic_class_of(event), json.dumps(event).encode())

    assert not isinstance(decoded, str), decoded
    assert decoded.channel == event["subject"]


@given(event=valid_events(), choices=st.data())
def test_of_a_message_with_other_bytes_in_it_only_a_rejection_can_leave(event, choices):
    value = json.dumps(event, ensure_ascii=choices.draw(FLAGS)).encode()
    start = choices.draw(st.integers(0, len(value)))
    end = choices.draw(st.integers(start, min(len(value), start + 20)))
    spliced = value[:start] + choices.draw(st.binary(max_size=20)) + value[end:]

    outcome_of(topic_class_of(event), spliced)


@given(event=valid_events(), topic_class=TOPIC_CLASSES, choices=st.data())
def test_of_a_message_with_another_value_in_it_only_a_rejection_can_leave(
    event, topic_class, choices
):
    fields = event["data"] if choices.draw(FLAGS) else event
    name = choices.draw(st.sampled_from(sorted(fields)) | st.text(max_size=5))
    if choices.draw(FLAGS):
        fields.pop(name, None)
    else:
        fields[name] = choices.draw(JSON_VALUES)

    outcome_of(topic_class, json.dumps(event).encode())


@given(event=valid_events(), topic_class=TOPIC_CLASSES, choices=st.data())
def test_both_modes_say_the_same(event, topic_class, choices):
    name = choices.draw(st.sampled_from(["type", "id", "source", "subject", "time", "specversion"]))
    event[name] = choices.draw(st.just(event[name]) | st.text(st.characters(codec="utf-8")))
    if choices.draw(FLAGS):
        event["data"] = choices.draw(JSON_VALUES)
    headers = [
        (f"ce_{attribute}", text.encode())
        for attribute, text in event.items()
        if attribute != "data"
    ]

    in_headers = outcome_of(topic_class, json.dumps(event["data"]).encode(), headers)

    assert in_headers == outcome_of(topic_class, json.dumps(event).encode())


def understood(event):
    """Say what a valid event means to the books, written down independently of the decoder."""
    kind, data = event["type"], dict(event["data"])
    if kind == "message.sent":
        if data["kind"] != "global_sms":
            data = {name: data[name] for name in data if name in ("kind", "count", "provider")}
        else:
            text = data.pop("text", None)
            data.setdefault("segments", text and segments_of(text))
    if kind in ("lot.purchased", "lot.scheduled"):
        data.setdefault("renew", True)
    is_later = event["time"] == "2025-01-15T12:00:00.000001Z"
    return kind, is_later, data


@given(one=valid_events(), other=valid_events(), choices=st.data())
def test_contents_are_equal_exactly_if_what_is_understood_is_equal(one, other, choices):
    if choices.draw(FLAGS):
        # Most pairs are of two types and so tell little.
        other["type"], other["data"] = one["type"], choices.draw(VALID_DATA[one["type"]])
    if choices.draw(FLAGS):
        other["data"] = dict(reversed(other["data"].items())) | {"note": 1}

    first = outcome_of(topic_class_of(one), json.dumps(one).encode())
    second = outcome_of(topic_class_of(other), json.dumps(other).encode())

    other["data"].pop("note", None)
    # The instant is compared beside the digest.
    are_alike = (first.content, first.at) == (second.content, second.at)
    assert are_alike == (understood(one) == understood(other))
    are_one = all(one[name] == other[name] for name in ("subject", "source", "id"))
    assert (first.digest == second.digest) == are_one


def has_unfit_value(text):
    """Look for NULs and integers beyond 64 bits, also under keys that are repeated."""
    found = []

    def look(value):
        if isinstance(value, str):
            found.append("\0" in value)
        elif type(value) is int:
            found.append(not -(2**63) <= value < 2**64)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    def look_at_pairs(pairs):
        for name, value in pairs:
            look(name)
            look(value)

    look(json.loads(text, object_pairs_hook=look_at_pairs))
    return any(found)


AWKWARD_TEXTS = st.text(st.sampled_from('\0\\"u0 1,:{}[]-.e\n'), max_size=8) | st.sampled_from(
    ["9" * 19, "9" * 25, '"' + "9" * 25, "\\" + "9" * 25, "\\u0000", "\\\\u0000", "\\\0"]
)
EDGES = st.sampled_from([2**63, -(2**63), 2**64, -(2**64), 10**18, 10**19, -(10**19), 10**25])
NEAR_EDGES = st.builds(lambda edge, step: edge + step, EDGES, st.integers(-2, 2))
AWKWARD_VALUES = st.recursive(
    AWKWARD_TEXTS | NEAR_EDGES | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(AWKWARD_TEXTS, inner, max_size=3),
    max_leaves=5,
)


@given(notes=st.lists(AWKWARD_VALUES, min_size=1, max_size=3), indent=st.sampled_from([None, 0, 1]))
@example(notes=[0.12345678901234567890], indent=None)
@example(notes=[["\\", 2**63]], indent=None)
def test_nuls_and_integers_beyond_64_bits_are_found_exactly(notes, indent):
    # All under one key: the parser keeps only the last.
    repeated = ",".join(f'"note":{json.dumps(note, indent=indent)}' for note in notes)
    text = (
        '{"id":"a","source":"a","type":"workflow.executed","subject":"a",'
        '"time":"2025-01-15T12:00:00Z","data":{"actions":1,' + repeated + "}}"
    )

    outcome = outcome_of("usage", text.encode())

    assert (outcome == "malformed") == has_unfit_value(text)


@given(
    moment=st.datetimes(datetime(2, 1, 3), datetime(9996, 12, 29)),  # noqa: DTZ001
    minutes=st.integers(-1439, 1439),
    digits=st.integers(0, 12),
    separator=st.sampled_from("Tt"),
)
def test_a_time_with_any_offset_and_any_number_of_digits_is_read_exactly(
    moment, minutes, digits, separator
):
    fraction = f"{moment.microsecond:06}000000"[:digits]
    sign, ahead = "-" if minutes < 0 else "+", abs(minutes)
    text = (
        f"{moment:%Y}".zfill(4)
        + f"{moment:-%m-%d}{separator}{moment:%H:%M:%S}"
        + (f".{fraction}" if fraction else "")
        + f"{sign}{ahead // 60:02}:{ahead % 60:02}"
    )

    exact = moment.replace(
        microsecond=int(fraction[:6].ljust(6, "0")), tzinfo=timezone(timedelta(minutes=minutes))
    )
    assert instant_from(text) == instant_of(exact.astimezone(UTC))


@given(st.text(st.sampled_from("0123456789-:TtZz+. "), max_size=30))
def test_a_text_that_is_no_time_is_no_time(text):
    assume(not (text[:1].isdigit() and text[4:5] == "-" and text[10:11] in ("T", "t")))

    assert instant_from(text) is None


@given(choices=st.data())
def test_a_time_with_one_character_too_many_or_another_one_never_fails(choices):
    text = choices.draw(TIMES)
    place = choices.draw(st.integers(0, len(text)))
    odd = (
        text[:place]
        + choices.draw(st.text(max_size=2))
        + text[place + choices.draw(st.integers(0, 1)) :]
    )

    instant = instant_from(odd)

    assert instant is None or abs(instant) < 2**63
