"""Identities of a batch: claimed before anything else is locked, looked up after, and put right at
the end.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from metering.commands import Command, Register
from metering.intake import Arrival, Parked, Record
from metering.storage import event_store, parked_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metering.batches import Decode, Work
    from metering.catalog import Rules
    from metering.storage.event_store import Key

# To look an event up among the commands costs several times as much as to read a command.
FEW_COMMANDS_AN_EVENT: Final = 4


async def claim(driver: Any, work: Work, *, expect_known: bool) -> None:
    """Claim the identities of a batch. Raises SomeAreKnown unless that is expected."""
    if work.claimed:
        work.events_claimed = await event_store.claim_events(
            driver, work.claimed, expect_known=expect_known
        )
    await event_store.claim_commands(driver, work.commands.values())


async def look_up(
    driver: Any,
    rules: Rules,
    decode: Decode,
    work: Work,
) -> None:
    """Find what is known of these identities, of events to take back, and of records that wait.

    This comes after the channels were locked: whoever claimed one of these identities elsewhere is
    done by then.
    """
    taking = work.intake
    targets = work.targets
    wanted = targets | work.commands.keys()
    if work.has_copies:
        work.not_claimed = await event_store.not_claimed(driver)
        wanted |= work.not_claimed
    if work.claimants:
        months = _live_months(rules, work)
        taking.identities.update(
            await event_store.met_in_other_months(driver, work.claimed, months)
        )
        unread = work.concerned - work.commands_read.keys()
        before = sum([work.commands_before.get(channel, 0) for channel in unread])
        # To look each identity up among few commands took PostgreSQL several times as long.
        if before < len(work.claimants) * FEW_COMMANDS_AN_EVENT:
            work.commands_read |= await event_store.commands_of(driver, unread)
            wanted |= event_store.among(work.commands_read, work.claimants)
        else:
            wanted |= await event_store.known_as_commands(driver, work.claimed.values())
    events, commands = await event_store.find(driver, wanted)
    work.not_commands = work.commands.keys() & events.keys()
    for key, identity in chain(commands.items(), events.items()):
        if key in targets and key[0] in work.oldest:
            work.oldest[key[0]] = min(identity.at, work.oldest[key[0]])
        # What this very batch claims is taken in when its turn comes.
        if identity.place != work.place_of(key):
            taking.identities[key] = identity
    registering = {
        message.channel
        for message, _ in work.commands.values()
        if isinstance(message.order, Register)
    }
    put_waiting(
        decode,
        work,
        await parked_store.find(
            driver,
            work.concerned | {channel for channel, _ in targets},
            chain(work.keys(), work.commands, targets),
            registering=registering,
        ),
    )


def _live_months(rules: Rules, work: Work) -> range:
    """Tell in which months an event may stand whose identity a record of the batch could share."""
    earliest = min([read.earliest for read in work.read.values()])
    latest = max([read.latest for read in work.read.values()])
    first, last = earliest - rules.horizon, latest + rules.ahead
    return range(event_store.month_of(first), event_store.month_of(last) + 1)


def put_waiting(decode: Decode, work: Work, waiting: Iterable[parked_store.Waiting]) -> None:
    """Put in records that wait, read again from their original bytes."""
    for row in waiting:
        message = decode(row.topic, row.value, row.headers)
        parked = Parked(Arrival(row.place, row.clock, message), row.waits_for)
        work.intake.put_parked(parked)
        work.partitions[row.place.partition] = row.partition
        work.waited[message.channel, message.digest] = {event_store.month_of(message.at)}
        work.originals[row.place] = Record(
            *row.place, row.clock, row.topic, row.key, row.value, row.headers, message
        )


async def keep(driver: Any, work: Work) -> None:
    """Put those records right that do not stand as they were claimed."""
    taking, effects = work.intake, work.intake.effects
    rewritten, answered, waiting = [], [], []
    stands: set[Key] = set()
    standing: set[tuple[str, bytes, int]] = set()  # The events among them, with their months.
    for key in effects.claimed:
        identity = taking.identities.get(key)
        if identity is None:
            continue
        stands.add(key)
        message = identity.message
        if isinstance(message, Command):
            answer = effects.answers.get(message.digest)
            answered.append(
                event_store.command_row(message, identity.place, identity.state, answer)
            )
            continue
        standing.add((*key, event_store.month_of(identity.at)))
        if key in work.not_claimed or not work.is_as_claimed(key, identity):
            rewritten.append(event_store.row_as_standing(identity))
    for channel, parked in effects.parked:
        digest = parked.arrival.message.digest
        # One that waited for its channel may go on waiting for its event.
        if taking.parked.get(channel, {}).get(digest) is parked:
            waiting.append((channel, digest, parked.arrival.message.at, work.waiting(parked)))
    claimed = effects.released | work.special | work.commands.keys()
    gone = {key for key in claimed - stands if key not in taking.identities}
    # An identity that was let go may have been claimed again, at another time.
    moved = {key[:2] for key in standing} & (effects.released | work.special)
    months = {(*key, month) for key in gone | moved for month in work.months_of(key)}
    # Claimed in one month while another month, or a command, holds the identity: a conflict.
    beside = work.special - stands - work.not_claimed - gone
    months |= {(*key, work.month_of(key)) for key in beside}
    await event_store.release(driver, months - standing)
    await event_store.release_commands(driver, gone | (work.not_commands - stands))
    await event_store.put_right(driver, rewritten)
    await event_store.put_commands_right(driver, answered)
    voided = {(*key, event_store.month_of(taking.identities[key].at)) for key in effects.changed}
    await event_store.mark_voided(driver, voided)
    await parked_store.remove(driver, effects.unparked)
    await parked_store.add(driver, waiting)
