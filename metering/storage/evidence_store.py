"""Read the books for proof: faults that SQL can see by itself, and all there is of some channels."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from metering.errors import REJECT_REASONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Fault(NamedTuple):
    """A question that finds nothing in sound books, and the sentence for what it finds."""

    sentence: str
    query: str
    when: str = "always"  # Or only in a `quick` proof, or only in a `full` one, which reads all.


_FILL = "channel, product, on_day, source, lot, window_number, quota_number"

# Records that were claimed, and those that were rejected: after they had waited, or at once.
_RECORDS = """
    SELECT position, read_at_offset AS place, 1 AS taken, 0 AS rejected FROM event
    UNION ALL SELECT position, read_at_offset, 1, 0 FROM command
    UNION ALL SELECT position, read_at_offset, was_parked::int, (NOT was_parked)::int FROM reject
"""

_OFFSETS = [
    Fault(
        "{partition}: offset {begins} comes next, but the batches before end at {ended}",
        """
        WITH step AS (
            SELECT position, from_offset AS begins,
                lag(to_offset) OVER (PARTITION BY position ORDER BY from_offset) AS ended FROM batch
            UNION ALL SELECT number, next_offset,
                (SELECT max(to_offset) FROM batch WHERE position = number) FROM position
        )
        SELECT step.position, begins, coalesce(ended, start_offset) AS ended
        FROM step LEFT JOIN position ON number = step.position
        WHERE begins IS DISTINCT FROM coalesce(ended, start_offset)
        """,
    ),
    Fault(
        "{partition}: the batch from {from_offset} to {to_offset} has epoch {epoch}, "
        "the one before {before} and the position {claimed}",
        """
        SELECT b.position, from_offset, to_offset, b.epoch, before, p.epoch AS claimed FROM (
            SELECT *, lag(epoch) OVER (PARTITION BY position ORDER BY from_offset) AS before
            FROM batch
        ) AS b LEFT JOIN position p ON p.number = b.position
        WHERE to_offset <= from_offset OR b.epoch > p.epoch OR b.epoch < before
        """,
    ),
    Fault(
        "{partition}: its anchor stands at offset {anchor_offset}, outside of what was read",
        """
        SELECT number AS position, anchor_offset FROM position
        WHERE anchor_offset NOT BETWEEN start_offset AND next_offset - 1
            OR (anchor_offset IS NULL) <> (anchor_digest IS NULL)
        """,
    ),
    Fault(
        "{partition}: {taken} records are kept as taken in and {rejected} as rejected, between "
        "offsets {first} and {last}; its batches say {said_taken} and {said_rejected}",
        f"""
        SELECT position, coalesce(taken, 0) AS taken, coalesce(rejected, 0) AS rejected, first,
            last, coalesce(said_taken, 0) AS said_taken, coalesce(said_rejected, 0) AS said_rejected
        FROM (
            SELECT position, sum(taken) AS taken, sum(rejected) AS rejected,
                min(place) AS first, max(place) AS last
            FROM ({_RECORDS}) AS record GROUP BY position
        ) AS found FULL JOIN (
            SELECT position, sum(applied + parked) AS said_taken, sum(rejected) AS said_rejected
            FROM batch GROUP BY position
        ) AS said USING (position) LEFT JOIN position AS p ON p.number = position
        WHERE coalesce(taken, 0) > coalesce(said_taken, 0)
            OR coalesce(taken, 0) < coalesce(said_taken, 0) AND NOT {gone}
            OR coalesce(rejected, 0) <> coalesce(said_rejected, 0)
            OR first < start_offset OR last >= next_offset
        """,
        "quick",
    ),
    Fault(
        "{partition}: the batch from {from_offset} to {to_offset} says {said_taken} records taken "
        "in and {said_rejected} rejected; there are {taken} and {rejected}, {doubles} of them at "
        "the offset of another, the last at {last}",
        f"""
        SELECT found.position, batch AS from_offset, to_offset, applied + parked AS said_taken,
            b.rejected AS said_rejected, found.taken, found.rejected, doubles, last
        FROM (
            SELECT position, batch, sum(taken) AS taken, sum(rejected) AS rejected,
                count(place) - count(DISTINCT place) AS doubles, max(place) AS last
            FROM (
                SELECT *, max(starts) OVER (
                    PARTITION BY position ORDER BY coalesce(starts, place), starts
                    ROWS UNBOUNDED PRECEDING
                ) AS batch
                FROM (
                    SELECT *, NULL::bigint AS starts FROM ({_RECORDS}) AS record
                    UNION ALL SELECT position, NULL, 0, 0, from_offset FROM batch
                ) AS mark
            ) AS placed GROUP BY position, batch
        ) AS found LEFT JOIN batch AS b ON b.position = found.position AND b.from_offset = batch
        WHERE b.position IS NULL OR found.taken > applied + parked
            OR found.taken < applied + parked AND NOT {gone}
            OR found.rejected <> b.rejected OR doubles > 0 OR last >= to_offset
        """,
        "full",
    ),
]

_IDENTITIES = [
    Fault(
        "{channel}: event {digest} is taken back by {voids} voids; it stands as voided: {is_voided}",
        """
        SELECT channel, encode(digest, 'hex') AS digest, coalesce(voids, 0) AS voids,
            coalesce(is_voided, false) AS is_voided
        FROM (
            SELECT channel, digest, true AS is_voided FROM event WHERE state = 2
        ) AS target FULL JOIN (
            SELECT channel, person AS digest, count(*) AS voids FROM event
            WHERE state = 0 AND product = 0 GROUP BY 1, 2
        ) AS void USING (channel, digest)
        WHERE voids > 1 OR (is_voided IS NULL OR voids IS NULL) AND NOT {gone}
        """,
    ),
    Fault(
        "{channel}: the record at offset {read_at_offset} of {partition} waits by its state: "
        "{is_held}, by its original: {is_kept}, or for something else than it says",
        """
        SELECT channel, place AS position, read_at_offset, held.target IS NOT NULL AS is_held,
            parked.number IS NOT NULL AS is_kept
        FROM (
            SELECT channel, digest, at, position, read_at_offset,
                CASE WHEN product = 0 THEN person ELSE '' END AS target FROM event WHERE state = 1
            UNION ALL SELECT channel, digest, at, position, read_at_offset, ''
            FROM command WHERE state = 'parked'
        ) AS held (channel, digest, at, place, read_at_offset, target)
        FULL JOIN (
            SELECT channel, digest, at, position, read_at_offset, number, waits_for, topic
            FROM parked
        ) AS parked (channel, digest, at, place, read_at_offset, number, waits_for, topic)
        USING (channel, digest, at, place, read_at_offset)
        LEFT JOIN channel USING (channel) LEFT JOIN position ON position.number = place
        WHERE held.target IS NULL OR parked.number IS NULL OR parked.topic <> position.topic
            OR waits_for IS DISTINCT FROM CASE WHEN time_zone IS NOT NULL THEN target END
            OR EXISTS (SELECT FROM event AS e WHERE e.channel = channel.channel
                AND e.digest = waits_for)
        """,
    ),
    Fault(
        "{channel}: it is not registered, and holds values or has no record that waits for it",
        """
        SELECT channel FROM channel AS c WHERE time_zone IS NULL AND (
            num_nonnulls(registered_on, first_cycle_on, open_from, settled_on, due_at, closes_at) > 0
            OR sequence <> 0 OR entries <> 0 OR notices <> 0
            OR NOT EXISTS (SELECT FROM parked WHERE parked.channel = c.channel)
            AND NOT EXISTS (SELECT FROM reject WHERE reject.channel = c.channel)
        ) OR time_zone IS NOT NULL
            AND num_nulls(registered_on, first_cycle_on, open_from, settled_on, closes_at) > 0
        """,
    ),
    Fault(
        "{partition}: the reject at offset {read_at_offset} says {reason}, had waited: {was_parked}",
        f"""
        SELECT position, read_at_offset, reason, was_parked FROM reject
        WHERE reason NOT IN ({", ".join(f"'{reason}'" for reason in REJECT_REASONS)})
            OR reason IN ('unknown_channel', 'unknown_event') AND NOT was_parked
        """,
    ),
    *(
        Fault(
            f"{{channel}}: {{rows}} rows of {table} belong to no registered channel",
            f"""
            SELECT channel, count(*) AS rows FROM {table} AS t WHERE NOT EXISTS (
                SELECT FROM channel AS c
                WHERE c.channel = t.channel AND (c.time_zone IS NOT NULL OR {waiting})
            ) GROUP BY channel
            """,
        )
        for table, waiting in {
            "event": "t.state = 1", "command": "t.state = 'parked'", "parked": "true",
            **dict.fromkeys(
                ("setting", "lot", "lot_window", "reservation", "tally", "reading", "level",
                 "fill", "entry", "notice", "cycle"),
                "false",
            ),
        }.items()
    ),
]  # fmt: skip

_LEDGER = [
    *(
        Fault(
            f"{{channel}}: its {table} numbers are {{lines}} up to {{last}}, it counts {{counted}}",
            f"""
            SELECT channel, c.{counter} AS counted, count(t.number) AS lines,
                coalesce(max(t.number), 0) AS last
            FROM channel AS c LEFT JOIN {table} AS t USING (channel) GROUP BY channel
            HAVING count(t.number) <> c.{counter} OR coalesce(max(t.number), 0) <> c.{counter}
                OR min(t.number) < 1
            """,
        )
        for table, counter in (("entry", "entries"), ("notice", "notices"))
    ),
    Fault(
        "{channel}: {product} on {on_day}: {booked} is booked as {source} of lot {lot!r} "
        "(window {window_number}, quota {quota_number}), the entries add up to {entered}",
        f"""
        SELECT {_FILL}, booked, entered
        FROM (SELECT {_FILL}, quantity AS booked FROM fill) AS f
        FULL JOIN (SELECT {_FILL}, sum(quantity) AS entered FROM entry GROUP BY {_FILL}) AS e
        USING ({_FILL}) WHERE booked IS DISTINCT FROM entered
        """,
    ),
    Fault(
        "{channel}: window {number} of lot {lot} has own, carried, borrowed, minimum, lent, taken "
        "{has}; what is booked adds up to {booked}",
        """
        SELECT channel, lot, number, has::text, coalesce(booked, none)::text AS booked
        FROM (SELECT ROW(0::numeric, 0::numeric, 0::numeric, 0::numeric, 0::numeric, 0::numeric)
            AS none) AS nothing, (
            SELECT channel, lot, number, ROW(own::numeric, carried::numeric, borrowed::numeric,
                minimum::numeric, lent::numeric, taken::numeric) AS has
            FROM lot_window
        ) AS w FULL JOIN (
            SELECT channel, lot, number, ROW(
                coalesce(sum(quantity) FILTER (WHERE source = 'own'), 0),
                coalesce(sum(quantity) FILTER (WHERE source = 'carried'), 0),
                coalesce(sum(quantity) FILTER (WHERE source = 'borrowed'), 0),
                coalesce(sum(quantity) FILTER (WHERE source = 'minimum'), 0),
                coalesce(sum(quantity) FILTER (WHERE source = 'lent'), 0),
                coalesce(sum(quantity) FILTER (WHERE source = 'taken'), 0)
            ) AS booked
            FROM (
                SELECT channel, lot, window_number AS number, source, quantity FROM fill
                UNION ALL SELECT channel, lot, quota_number, 'taken', quantity FROM fill
                UNION ALL SELECT channel, lot, quota_number, 'lent', quantity FROM fill
                WHERE quota_number > window_number
            ) AS part WHERE lot <> '' AND number >= 0 GROUP BY channel, lot, number
        ) AS f USING (channel, lot, number)
        WHERE has IS DISTINCT FROM coalesce(booked, none)
        """,
    ),
    Fault(
        "{channel}: lot {lot} has a pool of {pool} and {expired} expired; what is booked leaves "
        "{left}, {gone} of it expired",
        """
        SELECT channel, coalesce(l.lot, e.lot) AS lot, pool, l.expired,
            coalesce(bought - taken, 0) - coalesce(e.expired, 0) AS left,
            coalesce(e.expired, 0) AS gone
        FROM lot AS l LEFT JOIN (
            SELECT channel, lot, sum(quota) AS bought, sum(taken) AS taken FROM lot_window
            GROUP BY channel, lot
        ) AS w USING (channel, lot) FULL JOIN (
            SELECT channel, lot, sum(quantity) AS expired FROM fill
            WHERE source = 'expired' GROUP BY channel, lot
        ) AS e USING (channel, lot)
        WHERE l.expired IS DISTINCT FROM coalesce(e.expired, 0)
            OR pool <> CASE WHEN is_refunded THEN 0
                ELSE coalesce(bought - taken, 0) - l.expired END
        """,
    ),
    Fault(
        "{channel}: its {product} level in force is {level} of {at}, and on {on_day} it was "
        "{last_level} of {last_at}",
        """
        SELECT r.channel, r.product, l.level, l.at, r.on_day, r.last_level, r.last_at
        FROM reading AS r JOIN channel AS c ON c.channel = r.channel AND r.on_day < c.open_from
        LEFT JOIN level AS l ON (l.channel, l.product, l.person) = (r.channel, r.product, r.person)
        WHERE r.last_at IS NOT NULL AND ((l.at, l.level) < (r.last_at, r.last_level) OR l.at IS NULL)
        """,
        "quick",
    ),
    Fault(
        "{channel}: entry {number} of {product} on {on_day} was made by the record at offset "
        "{read_at_offset} of {partition}, original day {original_on}: no such record was counted",
        """
        SELECT e.channel, number, product, on_day, e.position, read_at_offset, original_on
        FROM entry AS e LEFT JOIN (
            SELECT channel, position, read_at_offset, at, counts_on FROM event WHERE state <> 1
            UNION ALL SELECT channel, position, read_at_offset, at, NULL FROM command
        ) AS r USING (channel, position, read_at_offset)
        WHERE num_nonnulls(e.position, read_at_offset) = 1
            OR e.position IS NULL AND original_on IS NOT NULL
            OR e.position IS NOT NULL AND r.at IS NULL AND NOT {gone}
            OR original_on IS NOT NULL AND NOT {gone} AND (counts_on IS NULL OR on_day < counts_on
                OR abs(original_on - (to_timestamp(r.at / 1000000) AT TIME ZONE 'UTC')::date) > 1)
        """,
        "full",
    ),
]

FAULTS = [*_OFFSETS, *_IDENTITIES, *_LEDGER]

_COUNTS = """
SELECT (SELECT count(*) FROM channel WHERE time_zone IS NOT NULL) AS channels,
    (SELECT count(*) FROM event) AS events, (SELECT count(*) FROM command) AS commands,
    (SELECT count(*) FROM parked) AS parked, (SELECT count(*) FROM reject) AS rejects,
    (SELECT count(*) FROM position) AS partitions, (SELECT count(*) FROM batch) AS batches,
    (SELECT coalesce(sum(next_offset - start_offset), 0)::bigint FROM position) AS offsets,
    (SELECT coalesce(sum(to_offset - from_offset - applied - duplicate - parked - rejected), 0)::bigint
        FROM batch) AS holes,
    (SELECT count(*) FROM entry) AS entries, (SELECT count(*) FROM notice) AS notices,
    (SELECT count(*) FROM lot) AS lots, (SELECT count(*) FROM cycle) AS cycles
"""


async def count(driver: Any) -> dict[str, int]:  # noqa: ANN401
    """Count what the books hold."""
    return dict(await driver.fetchrow(_COUNTS))


async def find_faults(driver: Any, *, is_full: bool, gone: bool) -> AsyncIterator[str]:  # noqa: ANN401
    """Find what SQL can see; `gone` says that the events of old months are no longer kept."""
    names = {
        row["number"]: f"{row['topic']}-{row['topic_partition']}"
        for row in await driver.fetch("SELECT number, topic, topic_partition FROM position")
    }
    for fault in FAULTS:
        if fault.when in ("always", "full" if is_full else "quick"):
            for row in await driver.fetch(fault.query.replace("{gone}", str(gone).lower())):
                number = row.get("position")
                partition = names.get(number, f"partition {number}")
                yield fault.sentence.format(**dict(row), partition=partition)
