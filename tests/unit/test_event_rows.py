"""Rows of events are put together from what is known of their channels and contents."""

import random

from metering.catalog import shipped_catalog
from metering.events import Count, Reading, Tariff, Void
from metering.storage import event_rows
from metering.storage.event_rows import DAY, Claimed, EventRows

CATALOG = shipped_catalog()
FEW = 7


def messages():
    """Of more channels, days and contents than are remembered, each of them twice."""
    for number in [*range(3 * FEW), *range(3 * FEW)]:
        channel, digest, at = f"c-{number}", bytes([number]) * 16, (19_000 + number // 2) * DAY
        used, sent, stored, taken_back = (bytes([number, kind]) * 8 for kind in range(4))
        yield Count(channel, digest, used, at, "workflow", number, None)
        yield Count(channel, digest, sent, at, "pu", number, Tariff("sms"))
        yield Reading(channel, digest, stored, at, "mu", b"", number)
        yield Void(channel, digest, taken_back, at, digest)


def test_rows_do_not_depend_on_what_was_written_before():
    known = EventRows(CATALOG)

    found = [known.write(message, 3, 5) for message in messages()]

    assert found == [EventRows(CATALOG).write(message, 3, 5) for message in messages()]
    assert len(set(found)) == len(found) // 2


def test_what_is_known_is_forgotten_before_it_is_too_much(monkeypatch):
    monkeypatch.setattr(event_rows, "CHANNELS_MAX", FEW)
    monkeypatch.setattr(event_rows, "CONTENTS_MAX", FEW)
    rows = EventRows(CATALOG)
    most = 0

    for message in messages():
        assert rows.write(message, 3, 5) == EventRows(CATALOG).write(message, 3, 5)
        assert len(rows._channels) <= FEW
        days = rows._days.values()
        most = max(most, len(days) + sum(len(contents) for _, contents in days))

    assert FEW // 2 < most <= FEW


def test_a_reading_is_not_taken_for_the_one_of_another_person():
    rows = EventRows(CATALOG)
    first, second = (
        Reading("c-1", b"d" * 16, b"c" * 16, 0, "basic_seat", person * 16, 1)
        for person in (b"a", b"b")
    )

    assert rows.write(first, 3, 5) != rows.write(second, 3, 5)


def test_rows_are_taken_in_the_order_in_which_every_batch_claims_them():
    draw, rows, claimed, written = random.Random(4), EventRows(CATALOG), Claimed(), []
    channels = ["c-10", "c-9", "c-é", "c-z", "b-100"]
    for _ in range(200):
        channel, digest = draw.choice(channels), draw.randbytes(16)
        _, row, _ = rows.write(Count(channel, digest, b"c" * 16, DAY, "workflow", 1, None), 3, 5)
        claimed.add(channel, digest, row)
        written.append((len(channel.encode()), channel.encode(), digest, row))

    assert claimed.take_rows() == [row for *_, row in sorted(written)]
    assert claimed.take_rows() == []
