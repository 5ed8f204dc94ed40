"""What every command of the command line shares: settings, errors in one line, JSON on stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from aiokafka.errors import KafkaError
from sqlalchemy.exc import DBAPIError

from consumer.settings import PREFIX, Settings
from consumer.wall_clock import now_instant
from metering.catalog import PRODUCTS
from metering.errors import Unavailable
from metering.periods import moment_of
from metering.storage.database import create_engine, describe, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from metering.catalog import Catalog

FINDING, WRONG_USAGE, INTERRUPTED = 1, 2, 130

# Stand for the servers in commands that never reach them.
_STAND_INS = {
    "KAFKA_SERVERS": "localhost:9092",
    "DATABASE_URL": "postgresql://nobody@localhost/none",
}

# SQLSTATEs that the one at the keyboard can do something about.
ADVICE = {
    "42P01": "the database has no books yet: run lotmeter migrate",
    "3F000": "the database has no books yet: run lotmeter migrate",
    "28P01": "the database refused the password: see LOTMETER_DATABASE_URL",
    "28000": "the database refused the user: see LOTMETER_DATABASE_URL",
    "3D000": "there is no such database: see LOTMETER_DATABASE_URL",
    "42501": "the database role lacks a grant: run lotmeter migrate as owner, with the roles named",
}

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else.")
]
ChannelArgument = Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel id.")]


def completing(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Make what shells ask for the names that begin as somebody typed."""
    known = sorted(names)
    # The parameter has the name that typer looks for.
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


ProductArgument = Annotated[
    str,
    typer.Argument(
        metavar="PRODUCT", help=", ".join(PRODUCTS), autocompletion=completing(PRODUCTS)
    ),
]


# Names are chosen by strangers: longer ones are cut where people read them.
SHOWN_CHARACTERS_MAX = 60


def shown(name: str, characters_max: int = SHOWN_CHARACTERS_MAX) -> str:
    """Write a name so that it can neither move the cursor nor hide a part of itself."""
    plain = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )
    return plain if len(plain) <= characters_max else plain[: characters_max - 1] + "…"


def grouped(number: str) -> str:
    """Write a decimal text with commas between thousands."""
    whole, dot, rest = number.removeprefix("-").partition(".")
    sign = "-" if number.startswith("-") else ""
    return f"{sign}{int(whole):,}{dot}{rest}"


class Stop(Exception):
    """End with a message for people and an exit status."""

    def __init__(self, message: str, status: int = FINDING) -> None:
        super().__init__(message)
        self.status = status


def settings_for(*, kafka: bool = True, database: bool = True) -> Settings:
    """Read the settings; a command that never reaches a server does not ask for its address."""
    environ = dict(os.environ)
    for name, is_needed in (("KAFKA_SERVERS", kafka), ("DATABASE_URL", database)):
        variable = PREFIX + name
        if not is_needed and not environ.get(variable) and not environ.get(variable + "_FILE"):
            environ[variable] = _STAND_INS[name]
    return Settings.from_environ(environ)


def catalog_of(settings: Settings) -> Catalog:
    """Read the catalog that the settings name."""
    try:
        return settings.read_catalog()
    except OSError as error:
        raise Stop(f"{PREFIX}CATALOG cannot be read: {error.strerror}", WRONG_USAGE) from None


def engine_of(settings: Settings, *, is_patient: bool = False) -> AsyncEngine:
    """Make an engine for the database that the settings name."""
    return create_engine(
        settings.database_url.get_secret_value(),
        schema=settings.database_schema,
        is_patient=is_patient,
    )


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401
    """Run what a command does, and say in one line what keeps it from doing it."""
    try:
        return asyncio.run(coroutine)
    except (DBAPIError, Unavailable) as error:
        state = sqlstate_of(error) or sqlstate_of(error.__cause__ or error)
        advice = ADVICE.get(state or "", f"the database cannot do it: {describe(error)}")
        raise Stop(advice) from None
    except KafkaError as error:
        raise Stop(f"Kafka cannot do it: {type(error).__name__}; see lotmeter check") from None
    except OSError as error:
        raise Stop(f"cannot reach a server: {error.strerror or type(error).__name__}") from None


def with_engine(settings: Settings, work: Callable[[AsyncEngine], Awaitable[Any]]) -> Any:  # noqa: ANN401
    """Do something with the database, and let go of it."""

    async def working() -> Any:  # noqa: ANN401
        engine = engine_of(settings)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    return run(working())


def print_json(document: object) -> None:
    """Print one JSON document."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.buffer.write(orjson.dumps(document, option=options))
    sys.stdout.buffer.flush()


def day_from(text: str | None) -> date:
    """Read a day that was typed; without one, today in UTC."""
    if text is None:
        return moment_of(now_instant()).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Stop(f"{text} is no day, like 2025-01-31", WRONG_USAGE) from None
