"""Records that wait for their channel or for the event they take back, as they came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from metering.intake import Place
from metering.storage.database import OF_THESE, as_json
from metering.storage.outbox_store import pack_headers, unpack_headers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from metering.intake import Headers

_FIND = """
SELECT p.*, q.topic_partition FROM (
    SELECT * FROM parked WHERE channel = ANY ($1)
    UNION
    SELECT p.* FROM parked p JOIN unnest($2::text[], $3::bytea[]) AS wanted (channel, digest)
        ON p.channel = wanted.channel AND (p.digest = wanted.digest OR p.waits_for = wanted.digest)
) p JOIN position q ON q.number = p.position ORDER BY p.number
"""
_CONCERNED = f"SELECT DISTINCT channel FROM parked WHERE {OF_THESE}"
_OVERDUE = """
SELECT p.*, q.topic_partition FROM parked p JOIN position q ON q.number = p.position
WHERE p.channel = ANY ($1) AND p.at < $2 ORDER BY p.number LIMIT $3
"""
_ADD = """
INSERT INTO parked (
    channel, digest, at, waits_for, position, read_at_offset, clock, topic, key, value, headers
)
SELECT * FROM unnest(
    $1::text[], $2::bytea[], $3::bigint[], $4::bytea[], $5::int[], $6::bigint[], $7::bigint[],
    $8::text[], $9::bytea[], $10::bytea[], $11::bytea[]
)
"""
_REMOVE = """
DELETE FROM parked p USING unnest($1::text[], $2::bytea[]) AS gone (channel, digest)
WHERE p.channel = gone.channel AND p.digest = gone.digest
"""


class Waiting(NamedTuple):
    """A record that waits, with its original bytes."""

    place: Place
    partition: int  # Of the topic.
    clock: int
    waits_for: bytes
    topic: str
    key: bytes | None
    value: bytes
    headers: Headers


async def find(
    driver: Any,
    channels: Collection[str],
    keys: Iterable[tuple[str, bytes]],
    *,
    registering: set[str],
) -> list[Waiting]:
    """Find what waits under these identities of these channels or for them, and all that waits for
    channels that register.
    """
    rows = await driver.fetch(_CONCERNED, as_json(channels))
    concerned = {row["channel"] for row in rows}
    if not concerned:
        return []
    wanted = sorted({key for key in keys if key[0] in concerned})
    named, digests = zip(*wanted, strict=True)
    return _waiting(await driver.fetch(_FIND, sorted(registering & concerned), named, digests))


async def find_overdue(
    driver: Any,
    channels: Collection[str],
    *,
    before: int,
    records_max: int,
) -> list[Waiting]:
    """Find what has waited too long for these channels, which must be locked."""
    return (
        _waiting(await driver.fetch(_OVERDUE, sorted(channels), before, records_max))
        if channels
        else []
    )


async def add(driver: Any, waiting: Sequence[tuple[str, bytes, int, Waiting]]) -> None:
    """Keep records that wait: channel, digest of the identity, own time, record."""
    if waiting:
        rows = [
            (
                channel,
                digest,
                at,
                record.waits_for or None,
                *record.place,
                record.clock,
                record.topic,
                record.key,
                record.value,
                pack_headers(record.headers),
            )
            for channel, digest, at, record in waiting
        ]
        await driver.execute(_ADD, *zip(*rows, strict=True))


async def remove(driver: Any, keys: Iterable[tuple[str, bytes]]) -> None:
    """Let go of records that wait no longer."""
    found = sorted(keys)
    if found:
        await driver.execute(_REMOVE, *zip(*found, strict=True))


def _waiting(rows: Iterable[Any]) -> list[Waiting]:
    return [
        Waiting(
            Place(row["position"], row["read_at_offset"]),
            row["topic_partition"],
            row["clock"],
            row["waits_for"] or b"",
            row["topic"],
            row["key"],
            row["value"],
            unpack_headers(row["headers"]),
        )
        for row in rows
    ]
