"""Identities: the record of each usage event and command, claimed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncpg.exceptions import UniqueViolationError

from metering.catalog import PRODUCTS
from metering.events import DIGEST_BYTES, Count, Reading, Void
from metering.intake import Identity, Place
from metering.quantities import quantity_of
from metering.storage import database
from metering.storage.database import OF_THESE, as_json
from metering.storage.event_rows import APPLIED, CODES, COLUMNS, END, HEAD, VOID_CODE, month_of
from metering.storage.tables import command, event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping

    from metering.commands import Command
    from metering.storage.event_rows import Claimed

__all__ = ["APPLIED", "VOID_CODE", "month_of"]

PARKED, VOIDED = 1, 2
_STATES = ("applied", "parked", "voided")
_NAMES = {number: product for product, number in CODES.items()}

# Channel and digest of an identity.
Key = tuple[str, bytes]

# Rows that are sent at once.
_SENT_ROWS = 1_000

_STAGE = "CREATE TEMPORARY TABLE IF NOT EXISTS arrived (LIKE event) ON COMMIT DELETE ROWS"
_CLAIM = """
INSERT INTO event SELECT * FROM arrived
ORDER BY month, octet_length(channel), channel COLLATE "C", digest ON CONFLICT DO NOTHING
"""
_NOT_CLAIMED = """
SELECT a.channel, a.digest FROM arrived a
WHERE NOT EXISTS (
    SELECT FROM event e WHERE e.channel = a.channel AND e.digest = a.digest AND e.month = a.month
        AND e.position = a.position AND e.read_at_offset = a.read_at_offset
)
"""
# Identities, as lists in JSON of channels, and of which digests are the first and the last of each,
# and the digests one behind the other. Those of a channel are looked up together: one by one, a
# hundred of each among a thousand in its month took PostgreSQL four times as long, seven as long.
_THESE = f"""
ROWS FROM (
    json_array_elements_text($1), json_array_elements_text($2), json_array_elements_text($3)
) AS these (channel, first, last)
CROSS JOIN LATERAL (
    SELECT * FROM {{table}} AS known WHERE known.channel = these.channel AND known.digest = ANY (
        ARRAY(
            SELECT substr($4::bytea, {DIGEST_BYTES} * n + 1, {DIGEST_BYTES})
            FROM generate_series(these.first::int, these.last::int) AS n
        )
    ){{more}} OFFSET 0
) AS found
"""
_MET = f"SELECT found.* FROM {_THESE.format(table='event', more=' AND known.month = $5')}"
# By the rows of the catalog, as committed by then: `to_regclass` answers from a cache that misses
# what was made since the transaction began.
_MONTHS = """
SELECT month FROM unnest($1::smallint[]) AS months (month) WHERE EXISTS (
    SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'event'::regclass AND relname = format('event_%s', month)
)
"""
_MET_COMMANDS = f"SELECT found.channel, found.digest FROM {_THESE.format(table='command', more='')}"
_COMMANDS = f"""
SELECT channel, string_agg(digest, '') FROM command WHERE {OF_THESE} GROUP BY channel
"""
_FIND = """
SELECT e.* FROM unnest($1::text[], $2::bytea[]) AS wanted (channel, digest)
JOIN event e USING (channel, digest)
"""
_FIND_COMMANDS = """
SELECT c.* FROM unnest($1::text[], $2::bytea[]) AS wanted (channel, digest)
JOIN command c USING (channel, digest)
"""
_VOID = """
UPDATE event e SET state = 2
FROM unnest($1::text[], $2::bytea[], $3::smallint[]) AS gone (channel, digest, month)
WHERE e.channel = gone.channel AND e.digest = gone.digest AND e.month = gone.month
"""
_RELEASE = """
DELETE FROM event e
USING unnest($1::text[], $2::bytea[], $3::smallint[]) AS gone (channel, digest, month)
WHERE e.channel = gone.channel AND e.digest = gone.digest AND e.month = gone.month
"""
_RELEASE_COMMANDS = """
DELETE FROM command c USING unnest($1::text[], $2::bytea[]) AS gone (channel, digest)
WHERE c.channel = gone.channel AND c.digest = gone.digest
"""
_CLAIM_COMMANDS = """
INSERT INTO command SELECT * FROM unnest(
    $1::text[], $2::bytea[], $3::bytea[], $4::bigint[], $5::int[], $6::bigint[], $7::text[],
    $8::text[], $9::text[]
) ON CONFLICT DO NOTHING
"""


def row_as_standing(identity: Identity) -> tuple[Any, ...]:
    """Write the record of an event as it stands now."""
    message = identity.message
    assert isinstance(message, Count | Reading | Void)
    person = (
        message.target if isinstance(message, Void) else getattr(message, "person", None) or None
    )
    quantity = quantity_of(identity.quantity) if isinstance(message, Reading) else identity.quantity
    return (
        message.channel, message.digest, month_of(message.at), identity.content, message.at,
        *identity.place, _STATES.index(identity.state),
        CODES.get(getattr(message, "product", ""), VOID_CODE),
        identity.kind or None, quantity, identity.messages, person,
        identity.counts_on if identity.is_late else None,
    )  # fmt: skip


class SomeAreKnown(Exception):
    """Other records hold identities of this batch: nothing of its transaction stands."""


async def claim_events(driver: Any, claimed: Mapping[int, Claimed], *, expect_known: bool) -> int:
    """Record the events of a batch by month, each identity once; returns how many of them are new.

    Raises SomeAreKnown unless it is to be expected that other records hold some of them. Identities
    are claimed in one fixed order, so that two batches queue instead of deadlocking.
    """
    if expect_known:
        await driver.execute(_STAGE)
        await _copy(driver, "arrived", claimed)
        status = await driver.execute(_CLAIM)
    else:
        # Straight into the table: half of PostgreSQL's time, and 0.7 of the log.
        try:
            status = await _copy(driver, "event", claimed)
        except UniqueViolationError as error:
            raise SomeAreKnown from error
    return database.count_of(status)


async def _copy(driver: Any, table: str, claimed: Mapping[int, Claimed]) -> str:
    """Copy rows month by month; bytes are in the order of channels, by length, and digests."""

    async def written() -> AsyncIterator[bytes]:
        yield HEAD
        for month in sorted(claimed):
            rows = claimed[month].take_rows()
            for at in range(0, len(rows), _SENT_ROWS):
                yield b"".join(rows[at : at + _SENT_ROWS])
            rows.clear()
        yield END

    status: str = await driver.copy_to_table(
        table, source=written(), columns=COLUMNS, format="binary"
    )
    return status


async def claim_commands(driver: Any, commands: Iterable[tuple[Command, Place]]) -> int:
    """Record the commands of a batch, each identity once; returns how many of them are new."""
    rows = sorted(command_row(message, place, "applied") for message, place in commands)
    if not rows:
        return 0
    status = await driver.execute(_CLAIM_COMMANDS, *zip(*rows, strict=True))
    return database.count_of(status)


def command_row(
    message: Command, place: Place, state: str, answer: str | None = None
) -> tuple[Any, ...]:
    """Write the record of a command."""
    return (
        message.channel, message.digest, message.content, message.at, *place,
        type(message.order).__name__, state, answer,
    )  # fmt: skip


async def not_claimed(driver: Any) -> set[Key]:
    """Find the identities of this batch that could not be recorded, as another record holds them
    or did just now.
    """
    return {(row["channel"], row["digest"]) for row in await driver.fetch(_NOT_CLAIMED)}


async def ensure_month(driver: Any, month: int) -> None:
    """Make the table of a month, if there is none yet."""
    await driver.execute("SELECT ensure_month($1)", month)


async def drop_months(driver: Any, *, oldest_kept: int) -> int:
    """Let go of the tables of older months, as far as nothing is open in them; returns how many."""
    return int(await driver.fetchval("SELECT drop_months($1)", oldest_kept))


async def met_in_other_months(
    driver: Any, claimed: Mapping[int, Claimed], months: Iterable[int]
) -> dict[Key, Identity]:
    """Find the identities of these events, by month, that records of other months hold, of those
    given.
    """
    met = {}
    wanted = [month for month in months if claimed.keys() - {month}]
    # A database has no table of the months before its first.
    in_use = await driver.fetch(_MONTHS, wanted) if wanted else ()
    for month in [row["month"] for row in in_use]:
        of_others = [events for own, events in claimed.items() if own != month]
        met.update(_identities(await driver.fetch(_MET, *_as_these(of_others), month)))
    return met


async def commands_of(driver: Any, channels: Collection[str]) -> dict[str, bytes]:
    """Find the identities of the commands of channels, one behind the other."""
    return dict(await driver.fetch(_COMMANDS, as_json(channels))) if channels else {}


def among(commands: Mapping[str, bytes], claimants: Container[bytes]) -> set[Key]:
    """Tell which of the identities that a batch claims are of such commands."""
    found = set()
    for channel, digests in commands.items():
        for at in range(0, len(digests), DIGEST_BYTES):
            digest = digests[at : at + DIGEST_BYTES]
            if digest in claimants:
                found.add((channel, digest))
    return found


async def known_as_commands(driver: Any, claimed: Iterable[Claimed]) -> set[Key]:
    """Tell which of these identities commands hold."""
    found = await driver.fetch(_MET_COMMANDS, *_as_these(claimed))
    return {(row["channel"], row["digest"]) for row in found}


def _as_these(claimed: Iterable[Claimed]) -> tuple[str, str, str, bytes]:
    """Write identities as four parameters."""
    channels, firsts, lasts = list[str](), list[int](), list[int]()
    digests: list[bytes] = []
    for events in claimed:
        for channel, own in events.digests.items():
            channels.append(channel)
            firsts.append(len(digests))
            digests += own
            lasts.append(len(digests) - 1)
    return as_json(channels), as_json(firsts), as_json(lasts), b"".join(digests)


async def find(
    driver: Any, keys: Collection[Key]
) -> tuple[dict[Key, Identity], dict[Key, Identity]]:
    """Find identities among events, in any month, and among commands: what a batch has claimed
    stands beside what held it before.
    """
    if not keys:
        return {}, {}
    channels, digests = zip(*sorted(keys), strict=True)
    events = _identities(await driver.fetch(_FIND, channels, digests))
    return events, _command_identities(await driver.fetch(_FIND_COMMANDS, channels, digests))


async def mark_voided(driver: Any, keys: Iterable[tuple[str, bytes, int]]) -> None:
    """Note that events were taken back; keys are channel, digest and month."""
    found = sorted(keys)
    if found:
        await driver.execute(_VOID, *zip(*found, strict=True))


async def put_right(driver: Any, rows: Iterable[tuple[Any, ...]]) -> None:
    """Rewrite the records of events that stand otherwise than they were first written."""
    await database.upsert(driver, event, rows)


async def release(driver: Any, keys: Iterable[tuple[str, bytes, int]]) -> None:
    """Forget events that were rejected after they were claimed; keys are channel, digest and
    month.
    """
    found = sorted(keys)
    if found:
        await driver.execute(_RELEASE, *zip(*found, strict=True))


async def put_commands_right(driver: Any, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write the answers to commands, and the state of those that waited."""
    await database.upsert(driver, command, rows)


async def release_commands(driver: Any, keys: Iterable[Key]) -> None:
    """Forget commands that were rejected."""
    found = sorted(keys)
    if found:
        await driver.execute(_RELEASE_COMMANDS, *zip(*found, strict=True))


def _identities(rows: Iterable[Any]) -> dict[Key, Identity]:
    return {
        (row["channel"], row["digest"]): Identity(
            None,
            row["content"],
            Place(row["position"], row["read_at_offset"]),
            _STATES[row["state"]],  # type: ignore[arg-type]
            row["at"],
            _NAMES.get(row["product"], ""),
            row["kind"] or "",
            row["quantity"],
            row["messages"],
            row["counts_on"],
            row["counts_on"] is not None,
            is_countable=_is_countable(row["product"]) and row["state"] != PARKED,
        )
        for row in rows
    }


def _is_countable(code: int) -> bool:
    product = _NAMES.get(code)
    return product is not None and PRODUCTS[product].adds_up in ("count", "cost")


def _command_identities(rows: Iterable[Any]) -> dict[Key, Identity]:
    return {
        (row["channel"], row["digest"]): Identity(
            None,
            row["content"],
            Place(row["position"], row["read_at_offset"]),
            row["state"],
            row["at"],
        )
        for row in rows
    }
