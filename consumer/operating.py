"""Commands that set the system up, run it, feed it and show it: migrate, topics, check, run, send,
traffic, demo.
"""

from __future__ import annotations

import itertools
import secrets
from pathlib import Path
from typing import Annotated

import typer

from consumer.terminal import (
    FINDING,
    WRONG_USAGE,
    JsonOption,
    Stop,
    catalog_of,
    engine_of,
    print_json,
    run,
    settings_for,
)
from consumer.wall_clock import now_instant


def run_consumer() -> None:
    """Read the topics into the books until told to stop."""
    from consumer import service  # noqa: PLC0415

    settings = settings_for()
    catalog_of(settings)
    raise typer.Exit(run(service.run(settings)))


def migrate(
    create_roles: Annotated[
        bool,
        typer.Option("--create-roles", help="Create the roles that the settings name, if missing."),
    ] = False,
) -> None:
    """Bring the database schema up to date, as its owner, and grant to the roles that the settings
    name.
    """
    from metering.storage import schema  # noqa: PLC0415

    settings = settings_for(kafka=False)

    async def work() -> str:
        # To build an index of a large table takes longer than any answer that members wait for.
        engine = engine_of(settings, is_patient=True)
        try:
            revision = await schema.migrate(engine, settings.database_schema)
            await schema.grant(
                engine,
                settings.database_schema,
                app=settings.database_app_role,
                reader=settings.database_reader_role,
                create_roles=create_roles,
            )
            return revision
        finally:
            await engine.dispose()

    try:
        revision = run(work())
    except ValueError as error:
        raise Stop(str(error)) from None
    print(f"schema {settings.database_schema} is at {revision}")


def topics(
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, max=10_000, help="Of each topic that is read.")
    ] = 8,
    replication: Annotated[
        int, typer.Option("--replication", min=1, max=10, help="Copies of each.")
    ] = 1,
) -> None:
    """Create the topics that are missing, keyed and retained as they must be."""
    from consumer import topics as topic_plan  # noqa: PLC0415

    settings = settings_for(database=False)
    created = run(
        topic_plan.create_missing(settings, partitions=partitions, replication=replication)
    )
    print("created " + ", ".join(created) if created else "all topics are there")


def check() -> None:
    """Read the settings, reach broker and database, and say what is wrong."""
    from consumer import checks  # noqa: PLC0415

    settings = settings_for()
    catalog_of(settings)
    problems = run(checks.problems_of(settings))
    for problem in problems[1:]:
        print(problem)
    if problems:
        raise Stop(problems[0], FINDING)
    print("all is well: settings, broker, topics, database, schema, grants")


def send(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="One JSON object a line, with topic and event.")
    ],
) -> None:
    """Publish a file of messages to their topics."""
    from consumer import reports, sending, simulate  # noqa: PLC0415

    settings = settings_for(database=False)
    try:
        lines = simulate.read_scenario(file)
    except simulate.WrongScenario as error:
        raise Stop(str(error), WRONG_USAGE) from None
    except OSError as error:
        raise Stop(f"{file} cannot be read: {error.strerror}", WRONG_USAGE) from None
    messages = (sending.message_of(settings, line) for line in lines)
    with reports.progress_bar("messages", len(lines)) as progress:
        count = run(sending.send(settings, messages, progress=progress))
    print(f"sent {count:,} message{'' if count == 1 else 's'}")


def traffic(
    channels: Annotated[
        int, typer.Option("--channels", min=1, max=1_000_000, help="Channels that use something.")
    ] = 50,
    events: Annotated[
        int,
        typer.Option(
            "--events", min=1, max=100_000_000, help="So many use up about what they bought."
        ),
    ] = 50_000,
    per_second: Annotated[
        int, typer.Option("--per-second", min=1, max=1_000_000, help="Events a second.")
    ] = 200,
    seconds: Annotated[
        int | None, typer.Option("--seconds", min=1, help="Stop then; without it, when told to.")
    ] = None,
) -> None:
    """Let channels register, buy lots and use them, now and then badly, to have something to look
    at.
    """
    from consumer import sending  # noqa: PLC0415
    from consumer.traffic import Traffic  # noqa: PLC0415

    settings = settings_for(database=False)
    made = Traffic(
        events=events,
        channels=channels,
        # Another one each time: the same ids with other content would be conflicts.
        seed=secrets.randbelow(2**32),
        now=now_instant(),
        catalog=catalog_of(settings),
    )
    commands = (sending.Outgoing(*message) for message in made.commands())
    sent = run(sending.send(settings, commands))
    print(f"sent {sent} commands", flush=True)
    usage = (sending.Outgoing(*message) for message in made.usage_from_now_on(now_instant))
    some = usage if seconds is None else itertools.islice(usage, seconds * per_second)
    sent = run(sending.send(settings, some, per_second=per_second))
    print(f"sent {sent} events")


def demo(
    events: Annotated[
        int, typer.Option("--events", min=1, max=100_000_000, help="Usage events to stream.")
    ] = 200_000,
    channels: Annotated[
        int, typer.Option("--channels", min=1, max=1_000_000, help="Channels that use them.")
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same traffic.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Stay until Ctrl-C, with /metrics.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the whole system at work, with a broker and a database of its own."""
    from consumer import demo as show  # noqa: PLC0415
    from consumer.embedded import EmbeddedServerUnavailable  # noqa: PLC0415

    try:
        is_proven = run(
            show.demo(
                events=events,
                channels=channels,
                seed=seed,
                keep=keep,
                report=print_json if json else None,
            )
        )
    except EmbeddedServerUnavailable as error:
        raise Stop(str(error)) from None
    if not is_proven:
        raise typer.Exit(FINDING)
