"""The command line: `lotmeter …`. Exit status 0 is success, 1 a refusal or a finding, 2 wrong
usage.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import typer

# Typer carries a Click of its own, and shows only a part of its errors.
from typer._click.exceptions import ClickException, NoArgsIsHelpError

from consumer import (
    charting,
    dead_letters,
    explaining,
    inspecting,
    mending,
    operating,
    ordering,
)
from consumer.settings import BadSettings
from consumer.terminal import FINDING, INTERRUPTED, WRONG_USAGE, Stop
from metering.errors import BadCatalog, MeteringError

app = typer.Typer(
    name="lotmeter",
    help="Meter usage from Kafka against prepaid lots, exactly once, in PostgreSQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    operating.demo,
    operating.run_consumer,
    operating.migrate,
    operating.topics,
    operating.check,
    inspecting.simulate,
    operating.send,
    operating.traffic,
    inspecting.quote,
    inspecting.lots,
    inspecting.statement,
    charting.chart,
    explaining.explain,
    inspecting.verify,
    ordering.limit,
):
    app.command(name=command.__name__.partition("_")[0])(command)
app.command(name="dead-letters")(dead_letters.dead_letters)
app.command(name="redeliver")(dead_letters.redeliver)
app.add_typer(ordering.lot, name="lot")
app.add_typer(ordering.channel, name="channel")
app.add_typer(mending.partitions, name="partitions")


def main() -> NoReturn:
    """Run the command line."""
    # The one line that says what to do is enough; what libraries log is for the log of run.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        status = typer.main.get_command(app).main(standalone_mode=False)
    except NoArgsIsHelpError as error:
        print(error.format_message())
        status = WRONG_USAGE
    except ClickException as error:
        status = _complain(error.format_message(), WRONG_USAGE)
    except (typer.Abort, KeyboardInterrupt):
        status = _complain("interrupted", INTERRUPTED)
    except Stop as stop:
        status = _complain(str(stop), stop.status)
    except (BadSettings, BadCatalog) as bad:
        status = _complain(str(bad), WRONG_USAGE)
    except MeteringError as error:
        status = _complain(f"{type(error).__name__}: {error}", FINDING)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str, status: int) -> int:
    print("lotmeter: " + " ".join(message.split()), file=sys.stderr)
    return status
