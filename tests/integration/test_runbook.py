"""Commands and queries of docs/operations.md can be typed as they stand."""

import re
import shlex

import pytest
import typer
from sqlalchemy import text

from consumer.cli import app
from metering.storage import schema
from metering.storage.database import create_engine, transaction
from tests.compose import ROOT, SERVICES

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

# A command may go on in the next line.
COMMANDS = re.findall(
    r"^    (?!SQL)((?:docker|lotmeter) .+)$", PAGE.replace("\\\n", " "), re.MULTILINE
)
COMMANDS += re.findall(r"`((?:docker compose|lotmeter) [^`…]+)`", PAGE)
QUERIES = re.findall(r'^    SQL "(.+)"$', PAGE, re.MULTILINE)


def words_of(command):
    """Split a command, without comments and whatever it is piped into."""
    return shlex.split(command.partition(" | ")[0].partition(" > ")[0], comments=True)


def parses(words):
    """Say whether lotmeter takes these words; nothing is run."""
    command, context = typer.main.get_command(app), None
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    if words != ["--help"]:
        context = command.make_context(name, list(words))
    return context is None or not context.args


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("docker")])
def test_compose_commands_name_services_and_commands_that_exist(command):
    _, compose, *words = words_of(command)
    while words[0] == "--profile":
        assert any(words[1] in service.get("profiles", ()) for service in SERVICES.values())
        words = words[2:]
    verb, *words = words
    flags = [word for word in words if word.startswith("--")]
    named = [word for word in words if word in SERVICES]

    assert compose == "compose"
    assert verb in ("up", "ps", "exec", "down", "logs", "restart", "run")
    if verb in ("exec", "run"):
        rest = words[words.index(named[0]) + 1 :]
        if rest[:1] == ["lotmeter"]:
            assert named[0] == "consumer"
            assert parses(rest[1:])
        elif verb == "run":
            assert flags[0] == "--rm"
            assert named[0] in ("consumer", "migrate", "topics")
            assert parses(rest) if rest else SERVICES[named[0]]["command"]
    for scaled in (words[words.index(flag) + 1] for flag in flags if flag == "--scale"):
        assert scaled.partition("=")[0] in SERVICES


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("lotmeter")])
def test_commands_of_lotmeter_exist(command):
    words = words_of(command)[1:]

    # In running text only the beginning may stand.
    known = typer.main.get_command(app).commands
    assert words[0] in known


async def test_queries_run_on_the_books(fresh_database_url):
    engine = create_engine(fresh_database_url, connections=1)
    await schema.migrate(engine, "lotmeter")
    async with transaction(engine) as connection:
        for query in QUERIES:
            await connection.execute(text(query))
    await engine.dispose()

    assert len(QUERIES) > 5
