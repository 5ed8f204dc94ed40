"""Commands for partitions that stand still: see them, and decide how they go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from consumer.terminal import JsonOption, Stop, print_json, settings_for, with_engine
from metering.periods import moment_of
from metering.storage import position_store
from metering.storage.database import transaction
from metering.storage.position_store import Partition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncConnection

    from metering.storage.position_store import Standing

partitions = typer.Typer(
    name="partitions",
    help="See the partitions, and let halted ones go on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TopicArgument = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")]
PartitionArgument = Annotated[
    int, typer.Argument(metavar="PARTITION", min=0, help="The number of the partition.")
]

SOON = "members take it up within seconds"


@partitions.command(name="list")
def list_partitions(json: JsonOption = False) -> None:
    """Print how far each partition is read, by whom, and why it is halted if it is."""
    settings = settings_for(kafka=False)
    found = _in_the_books(lambda connection: position_store.standings(connection, settings.group))
    if json:
        print_json({"partitions": [_document(each) for each in found]})
        return
    for each in found:
        state = f"halted: {each.halted}" if each.halted else f"read by {each.owner}"
        print(f"{each.partition.topic} {each.partition.partition} at {each.next_offset}, {state}")


@partitions.command()
def resume(topic: TopicArgument, partition: PartitionArgument) -> None:
    """Read a halted partition on from where it stands: what was wrong is put right."""
    group, place = settings_for(kafka=False).group, Partition(topic, partition)
    if not _in_the_books(lambda books: position_store.resume(books, group, place)):
        raise _not_halted(place)
    print(f"{topic} {partition} is read on: {SOON}")


@partitions.command()
def accept(topic: TopicArgument, partition: PartitionArgument) -> None:
    """Accept the log that is there now, and read it from its beginning.

    For a topic that was made anew, another cluster, or records that were removed before they were
    read. What was read before stays in the books; an event that comes again is a duplicate.
    """
    group, place = settings_for(kafka=False).group, Partition(topic, partition)
    if not _in_the_books(lambda books: position_store.retire(books, group, place)):
        raise _not_halted(place)
    print(f"{topic} {partition} is read from its beginning: {SOON}")


@partitions.command()
def skip(
    topic: TopicArgument,
    partition: PartitionArgument,
    to: Annotated[int, typer.Option("--to", min=1, metavar="OFFSET", help="Where to go on.")],
) -> None:
    """Leave out records that cannot be read at all: nothing of them is counted, ever."""
    group, place = settings_for(kafka=False).group, Partition(topic, partition)
    if not _in_the_books(lambda books: position_store.skip(books, group, place, to_offset=to)):
        raise Stop(
            f"{topic} {partition} is not halted before offset {to}: see lotmeter partitions list"
        )
    print(f"{topic} {partition} goes on at {to}: {SOON}")


def _in_the_books(work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:  # noqa: ANN401
    async def working(engine: Any) -> Any:  # noqa: ANN401
        async with transaction(engine) as connection:
            return await work(connection)

    return with_engine(settings_for(kafka=False), working)


def _not_halted(place: Partition) -> Stop:
    return Stop(f"{place.topic} {place.partition} is not halted: see lotmeter partitions list")


def _document(standing: Standing) -> dict[str, Any]:
    read_up_to = standing.read_up_to
    return {
        "topic": standing.partition.topic,
        "partition": standing.partition.partition,
        "next_offset": standing.next_offset,
        "owner": standing.owner,
        "read_up_to": moment_of(read_up_to).isoformat().replace("+00:00", "Z")
        if read_up_to
        else None,
        "halted": standing.halted,
    }
