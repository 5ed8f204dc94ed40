"""Read the books for proof: faults that SQL sees by itself, and all there is of some channels."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from metering.errors import REJECT_REASONS
from metering.periods import ONE_DAY, first_instant, zone_named
from metering.recount import Found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from datetime import timedelta


class Fault(NamedTuple):
    """A question that finds nothing in sound books, and the sentence for what it finds."""

    sentence: str
    query: str
    when: str = (
        "always"  # Or only in a `quick` proof, or in a `full` one, which sorts every record.
    )


# Stand for these in the questions. Of each record: was it taken in, or rejected when it was read?
_SHORT = {
    ":records": """
        SELECT position, read_at_offset AS place, 1 AS taken, 0 AS rejected FROM event
        UNION ALL SELECT position, read_at_offset, 1, 0 FROM command
        UNION ALL SELECT position, read_at_offset, was_parked::int, (NOT was_parked)::int
        FROM reject
    """,
    ":fill": "channel, product, on_day, source, lot, window_number, quota_number",
    ":reasons": ", ".join(f"'{reason}'" for reason in REJECT_REASONS),
}

_OFFSETS = (
    Fault(
        "{partition}: offset {begins} comes next, but the batches before it end at {ended}",
        """
        SELECT step.position, begins, coalesce(ended, start_offset) AS ended FROM (
            SELECT position, from_offset AS begins,
                lag(to_offset) OVER (PARTITION BY position ORDER BY from_offset) AS ended
            FROM batch
            UNION ALL SELECT number, next_offset,
                (SELECT max(to_offset) FROM batch WHERE position = number) FROM position
        ) AS step LEFT JOIN position ON number = step.position
        WHERE begins IS DISTINCT FROM coalesce(ended, start_offset)
        """,
    ),
    Fault(
        "{partition}: the batch from {from_offset} to {to_offset} has epoch {epoch}, the one "
        "before it {before}, the position {claimed}",
        """
        SELECT b.position, from_offset, to_offset, b.epoch, before, p.epoch AS claimed FROM (
            SELECT *, lag(epoch) OVER (PARTITION BY position ORDER BY from_offset) AS before
            FROM batch
        ) AS b LEFT JOIN position AS p ON p.number = b.position
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
        "{partition}: {taken} records are kept as taken in and {rejected} as rejected, from offset "
        "{first} to {last}; its batches say {said_taken} and {said_rejected}",
        """
        SELECT position, taken, rejected, first, last, said_taken, said_rejected FROM (
            SELECT position, sum(taken) AS taken, sum(rejected) AS rejected,
                min(place) AS first, max(place) AS last FROM (:records) AS r GROUP BY position
        ) AS found FULL JOIN (
            SELECT position, sum(applied + parked) AS said_taken, sum(rejected) AS said_rejected
            FROM batch GROUP BY position
        ) AS said USING (position) LEFT JOIN position AS p ON p.number = position
        WHERE coalesce(taken, 0) > coalesce(said_taken, 0)
            OR (coalesce(taken, 0) < said_taken AND NOT :gone)
            OR coalesce(rejected, 0) <> coalesce(said_rejected, 0)
            OR first < start_offset OR last >= next_offset
        """,
        "quick",
    ),
    Fault(
        "{partition}: the batch from {from_offset} to {to_offset} says {said_taken} records taken "
        "in and {said_rejected} rejected; there are {taken} and {rejected}, {doubles} of them at "
        "the offset of another, the last one at {last}",
        """
        SELECT found.position, starts AS from_offset, to_offset, applied + parked AS said_taken,
            b.rejected AS said_rejected, found.taken, found.rejected, doubles, last
        FROM (
            SELECT position, starts, sum(taken) AS taken, sum(rejected) AS rejected,
                count(place) - count(DISTINCT place) AS doubles, max(place) AS last
            FROM (
                -- Each record belongs to the last batch that begins at its offset or before.
                SELECT position, place, taken, rejected, max(starts) OVER (
                    PARTITION BY position ORDER BY coalesce(starts, place), starts
                    ROWS UNBOUNDED PRECEDING
                ) AS starts
                FROM (
                    SELECT *, NULL::bigint AS starts FROM (:records) AS r
                    UNION ALL SELECT position, NULL, 0, 0, from_offset FROM batch
                ) AS mark
            ) AS placed GROUP BY position, starts
        ) AS found LEFT JOIN batch AS b ON b.position = found.position AND b.from_offset = starts
        WHERE b.position IS NULL OR doubles > 0 OR last >= to_offset
            OR found.taken > applied + parked OR found.rejected <> b.rejected
            OR (found.taken < applied + parked AND NOT :gone)
        """,
        "full",
    ),
    Fault(
        "{partition}: the reject at offset {read_at_offset} says {reason}; it waited: {was_parked}",
        """
        SELECT position, read_at_offset, reason, was_parked FROM reject
        WHERE reason NOT IN (:reasons)
            OR (reason IN ('unknown_channel', 'unknown_event') AND NOT was_parked)
        """,
    ),
)

_IDENTITIES = (
    Fault(
        "{channel}: event {event} is named by {voids} voids, and stands as voided: {is_voided}",
        """
        SELECT channel, encode(digest, 'hex') AS event, coalesce(voids, 0) AS voids,
            coalesce(is_voided, false) AS is_voided
        FROM (SELECT channel, digest, true AS is_voided FROM event WHERE state = 2) AS target
        FULL JOIN (
            SELECT channel, person AS digest, count(*) AS voids FROM event
            WHERE state = 0 AND product = 0 GROUP BY channel, person
        ) AS void USING (channel, digest)
        WHERE voids > 1 OR ((is_voided IS NULL OR voids IS NULL) AND NOT :gone)
        """,
    ),
    Fault(
        "{channel}: the record at offset {read_at_offset} of {partition} waits: {is_held}; it is "
        "kept: {is_kept}; it waits for something else than it says, or for something that is there",
        """
        SELECT channel, place AS position, read_at_offset, held.target IS NOT NULL AS is_held,
            parked.number IS NOT NULL AS is_kept
        FROM (
            SELECT channel, digest, at, position AS place, read_at_offset,
                CASE WHEN product = 0 THEN person ELSE '' END AS target FROM event WHERE state = 1
            UNION ALL SELECT channel, digest, at, position, read_at_offset, ''
            FROM command WHERE state = 'parked'
        ) AS held FULL JOIN (SELECT *, position AS place FROM parked) AS parked
            USING (channel, digest, at, place, read_at_offset)
        LEFT JOIN channel AS c USING (channel) LEFT JOIN position AS p ON p.number = place
        WHERE held.target IS NULL OR parked.number IS NULL OR parked.topic <> p.topic
            OR waits_for IS DISTINCT FROM CASE WHEN time_zone IS NOT NULL THEN target END
            OR EXISTS (SELECT FROM event AS e WHERE e.channel = c.channel AND e.digest = waits_for)
        """,
    ),
    Fault(
        "{channel}: it is half registered, or neither registered nor named by a record",
        """
        SELECT channel FROM channel AS c WHERE CASE WHEN time_zone IS NOT NULL
            THEN num_nulls(registered_on, first_cycle_on, open_from, settled_on, closes_at) > 0
            ELSE num_nonnulls(
                registered_on, first_cycle_on, open_from, settled_on, due_at, closes_at
            ) > 0 OR (sequence, entries, notices) <> (0, 0, 0) OR NOT EXISTS (
                SELECT FROM parked WHERE parked.channel = c.channel
                UNION ALL SELECT FROM reject WHERE reject.channel = c.channel
            )
        END
        """,
    ),
    *(
        Fault(
            f"{{channel}}: {{rows}} rows of {table} belong to no channel, or to none that is known",
            """
            SELECT channel, count(*) AS rows FROM :table AS t WHERE NOT EXISTS (
                SELECT FROM channel AS c
                WHERE c.channel = t.channel AND (c.time_zone IS NOT NULL OR :waits)
            ) AND :stands GROUP BY channel
            """.replace(":table", table)
            .replace(":waits", waits)
            .replace(":stands", "was_parked" if table == "reject" else "true"),
        )
        for table, waits in {
            "event": "t.state = 1",
            "command": "t.state = 'parked'",
            "parked": "true",
            "reject": "true",
            **dict.fromkeys(("setting", "lot", "lot_window", "reservation"), "false"),
            **dict.fromkeys(("daybook", "reading", "level"), "false"),
            **dict.fromkeys(("entry", "notice", "cycle"), "false"),
        }.items()
    ),
)

_LEDGER = (
    Fault(
        "{channel}: of {on_day} names and numbers do not pair up",
        """
        SELECT channel, on_day FROM daybook
        WHERE json_array_length(tallies::json) <> json_array_length(tallied::json)
            OR json_array_length(fills::json) <> json_array_length(filled::json)
        """,
    ),
    *(
        Fault(
            f"{{channel}}: the numbers of its {counter} are {{lines}}, to {{last}} of {{counted}}",
            """
            SELECT channel, c.:counter AS counted, count(t.number) AS lines, max(t.number) AS last
            FROM channel AS c LEFT JOIN :table AS t USING (channel) GROUP BY channel
            HAVING count(t.number) <> c.:counter OR min(t.number) < 1
                OR coalesce(max(t.number), 0) <> c.:counter
            """.replace(":table", table).replace(":counter", counter),
        )
        for table, counter in (("entry", "entries"), ("notice", "notices"))
    ),
    Fault(
        "{channel}: {product} on {on_day}: {booked} is booked as {source} of lot {lot!r}, window "
        "{window_number}, quota {quota_number}; its entries add up to {entered}",
        """
        SELECT :fill, booked, entered FROM (SELECT :fill, quantity AS booked FROM fill) AS f
        FULL JOIN (SELECT :fill, sum(quantity) AS entered FROM entry GROUP BY :fill) AS e
        USING (:fill) WHERE coalesce(booked, 0) <> coalesce(entered, 0)
        """,
    ),
    Fault(
        "{channel}: window {number} of lot {lot} has own, carried, borrowed, minimum, lent, taken "
        "{has}; what is booked adds up to {adds_up}",
        """
        SELECT channel, lot, number, has::text, adds_up::text FROM (
            SELECT channel, lot, number, sum(quantity) FILTER (WHERE source = 'own') AS own,
                sum(quantity) FILTER (WHERE source = 'carried') AS carried,
                sum(quantity) FILTER (WHERE source = 'borrowed') AS borrowed,
                sum(quantity) FILTER (WHERE source = 'minimum') AS minimum,
                sum(quantity) FILTER (WHERE source = 'lent') AS lent,
                sum(quantity) FILTER (WHERE source = 'taken') AS taken
            FROM (
                SELECT channel, lot, window_number AS number, source, quantity FROM fill
                UNION ALL SELECT channel, lot, quota_number, 'taken', quantity FROM fill
                UNION ALL SELECT channel, lot, quota_number, 'lent', quantity FROM fill
                WHERE quota_number > window_number
            ) AS part WHERE number >= 0 GROUP BY channel, lot, number
        ) AS f FULL JOIN lot_window AS w USING (channel, lot, number), LATERAL (
            SELECT ARRAY[coalesce(w.own, 0), coalesce(w.carried, 0), coalesce(w.borrowed, 0),
                    coalesce(w.minimum, 0), coalesce(w.lent, 0), coalesce(w.taken, 0)] AS has,
                ARRAY[coalesce(f.own, 0), coalesce(f.carried, 0), coalesce(f.borrowed, 0),
                    coalesce(f.minimum, 0), coalesce(f.lent, 0), coalesce(f.taken, 0)]::bigint[]
                AS adds_up
        ) AS sums WHERE has <> adds_up
        """,
    ),
    Fault(
        "{channel}: {expired} of lot {lot} expired; what is booked leaves {rest}, with {over} "
        "expired",
        """
        SELECT channel, lot, l.expired, rest, over FROM lot AS l FULL JOIN (
            SELECT channel, lot, sum(quantity) AS over FROM fill
            WHERE source = 'expired' GROUP BY channel, lot
        ) AS e USING (channel, lot) LEFT JOIN (
            SELECT channel, lot, sum(taken) AS taken FROM lot_window GROUP BY channel, lot
        ) AS w USING (channel, lot), LATERAL (
            SELECT l.quota * quotas_of(l.product) - coalesce(taken, 0) AS rest
        ) AS bought
        WHERE l.expired IS DISTINCT FROM coalesce(over, 0)
            OR (l.expired > 0 AND l.expired <> rest)
        """,
    ),
    Fault(
        "{channel}: entry {number} of {product} on {on_day} was made by the record at offset "
        "{read_at_offset} of {partition}, and there is none",
        """
        SELECT channel, number, product, on_day, position, read_at_offset
        FROM entry AS e LEFT JOIN (
            SELECT channel, position, read_at_offset, true AS is_there FROM event WHERE state <> 1
            UNION ALL SELECT channel, position, read_at_offset, true FROM command
            UNION ALL SELECT channel, position, read_at_offset, true FROM reject
        ) AS record USING (channel, position, read_at_offset)
        WHERE num_nonnulls(position, read_at_offset) = 1
            OR (position IS NOT NULL AND is_there IS NULL AND NOT :gone)
        """,
        "full",
    ),
)

_COUNTS = """
SELECT (SELECT count(*) FROM channel WHERE time_zone IS NOT NULL) AS channels,
    (SELECT count(*) FROM event) AS events, (SELECT count(*) FROM command) AS commands,
    (SELECT count(*) FROM parked) AS parked, (SELECT count(*) FROM reject) AS rejects,
    (SELECT count(*) FROM lot) AS lots, (SELECT count(*) FROM entry) AS entries,
    (SELECT count(*) FROM notice) AS notices, (SELECT count(*) FROM cycle) AS cycles,
    (SELECT count(*) FROM position) AS partitions, (SELECT count(*) FROM batch) AS batches,
    coalesce(sum(length), 0)::bigint AS offsets,
    coalesce(sum(length - applied - duplicate - parked - rejected), 0)::bigint AS holes
FROM batch, LATERAL (SELECT to_offset - from_offset AS length) AS span
"""
_GONE = """
SELECT (SELECT min(substring(relname FROM '[0-9]+$')::int) FROM pg_inherits
        JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'event'::regclass) AS month,
    least(
        (SELECT min(on_day) FROM daybook WHERE tallies <> '[]'), (SELECT min(on_day) FROM reading)
    ) AS on_day,
    (SELECT coalesce(sum(applied + parked), 0) FROM batch) > (SELECT count(*) FROM event)
        + (SELECT count(*) FROM command) + (SELECT count(*) FROM reject WHERE was_parked) AS lacks
"""

_CHANNELS = """
SELECT * FROM channel WHERE channel > $1 AND num_nulls(
    time_zone, registered_on, first_cycle_on, open_from, settled_on, closes_at
) = 0 ORDER BY channel LIMIT $2
"""
_WHOLE = "SELECT * FROM :table WHERE channel = ANY ($1)"
_SINCE = """
SELECT t.* FROM :table AS t JOIN unnest($1::text[], $2::date[]) AS c (channel, start)
USING (channel) WHERE on_day >= start
"""
_SUMS = """
SELECT channel, starts_on, product, source, sum(quantity)::bigint AS quantity
FROM cycle JOIN fill USING (channel)
WHERE channel = ANY ($1) AND on_day BETWEEN starts_on AND ends_on GROUP BY 1, 2, 3, 4
"""
_LATE = """
SELECT DISTINCT channel, product, original_on FROM entry
WHERE channel = ANY ($1) AND original_on IS NOT NULL
"""
_BASE = """
SELECT DISTINCT ON (channel, product, person) channel, product, person, at, level FROM (
    SELECT * FROM level UNION ALL
    SELECT channel, product, person, last_at, last_level FROM reading WHERE last_at IS NOT NULL
) AS report JOIN unnest($1::text[], $2::bigint[]) AS c (channel, before) USING (channel)
WHERE at < before ORDER BY channel, product, person, at DESC, level DESC
"""
_EVENTS = "SELECT * FROM event WHERE channel = ANY ($1) AND month >= $2"

_WHOLE_TABLES = (
    "setting", "lot", "lot_window", "reservation", "command", "notice", "cycle", "level",
)  # fmt: skip
_DAY_TABLES = ("tally", "reading", "fill")


@dataclass(slots=True)
class Evidence:
    """All there is of one channel, and what its events come to from a day on."""

    row: Any
    start: date
    zone: str
    rows: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))  # By table.
    found: Found = field(default_factory=Found)


async def count(driver: Any) -> dict[str, int]:
    """Count what the books hold."""
    return dict(await driver.fetchrow(_COUNTS))


async def kept_from(driver: Any) -> date | None:
    """Tell the first day whose events are kept, where those of older months are gone.

    They are if there are tallies of older days, and fewer records than the batches say.
    """
    row = await driver.fetchrow(_GONE)
    if row["on_day"] is None or not row["lacks"]:
        return None
    if row["month"] is None:
        return date.max
    first = date(row["month"] // 12, row["month"] % 12 + 1, 1)
    return first if row["on_day"] < first - ONE_DAY else None


async def find_faults(driver: Any, *, is_full: bool, is_gone: bool) -> AsyncIterator[str]:
    """Find what SQL sees; `is_gone` says that the events of old months are no longer kept."""
    names = {
        row["number"]: f"{row['topic']}-{row['topic_partition']}"
        for row in await driver.fetch("SELECT number, topic, topic_partition FROM position")
    }
    for fault in (*_OFFSETS, *_IDENTITIES, *_LEDGER):
        if fault.when in ("always", "full" if is_full else "quick"):
            query = fault.query.replace(":gone", str(is_gone).lower())
            for short, text in _SHORT.items():
                query = query.replace(short, text)
            async for row in driver.cursor(query):
                number = row.get("position")
                partition = names.get(number, f"partition {number}")
                yield fault.sentence.format(**dict(row), partition=partition)


async def read(
    driver: Any,
    *,
    after: str,
    channels_max: int,
    start_of: Callable[[Any], date],
    reach: timedelta,
) -> list[Evidence]:
    """Read the channels after one, with events from as long before the starts as they reach."""
    evidence = {
        row["channel"]: Evidence(row, start_of(row), _zone_of(row["time_zone"]))
        for row in await driver.fetch(_CHANNELS, after, channels_max)
    }
    if not evidence:
        return []
    names, starts = list(evidence), [kept.start for kept in evidence.values()]
    before = [first_instant(kept.start, kept.zone) for kept in evidence.values()]
    for table, query, arguments in _queries(names, starts, before):
        for row in await driver.fetch(query, *arguments):
            evidence[row["channel"]].rows[table].append(row)
    oldest = min(starts) - reach
    month = oldest.year * 12 + oldest.month - 1
    async for row in driver.cursor(_EVENTS, names, month, prefetch=2_000):
        kept = evidence[row["channel"]]
        kept.found.take(row, kept.zone, kept.start)
    return list(evidence.values())


def _queries(
    names: list[str], starts: list[date], before: list[int]
) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    for table in _WHOLE_TABLES:
        yield table, _WHOLE.replace(":table", table), (names,)
    for table in _DAY_TABLES:
        yield table, _SINCE.replace(":table", table), (names, starts)
    yield "sums", _SUMS, (names,)
    yield "late", _LATE, (names,)
    yield "base", _BASE, (names, before)


def _zone_of(name: str) -> str:
    # Without its zone nothing of a channel adds up, and every sentence says so.
    try:
        zone_named(name)
    except ValueError:
        return "UTC"
    return name
