"""Commands about records that were rejected: look at them, keep their originals in a file, send
them through again.
"""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from consumer import redelivery, reports
from consumer.terminal import (
    WRONG_USAGE,
    JsonOption,
    Stop,
    completing,
    print_json,
    run,
    settings_for,
    shown,
    with_engine,
)
from metering.errors import REJECT_REASONS
from metering.storage import reject_store
from metering.storage.reject_store import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.redelivery import Letter, Plan
    from consumer.settings import Settings

SHOWN, SHOWN_MAX = 20, 10_000

ReasonOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reason",
        metavar="REASON",
        help="Only these: " + ", ".join(REJECT_REASONS) + ".",
        autocompletion=completing(REJECT_REASONS),
    ),
]
TopicOption = Annotated[
    str | None, typer.Option("--topic", metavar="TOPIC", help="Read on this topic.")
]
PartitionOption = Annotated[
    int | None, typer.Option("--partition", min=0, help="Read on this partition of its topic.")
]
FromOption = Annotated[
    int | None, typer.Option("--from-offset", min=0, help="Read there at this offset or later.")
]
ToOption = Annotated[
    int | None, typer.Option("--to-offset", min=0, help="Read there at this offset or before.")
]


def dead_letters(
    reason: ReasonOption = None,
    topic: TopicOption = None,
    partition: PartitionOption = None,
    from_offset: FromOption = None,
    to_offset: ToOption = None,
    channel: Annotated[
        str | None, typer.Option("--channel", metavar="CHANNEL", help="Of this channel.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, max=SHOWN_MAX, help="List the newest so many.")
    ] = SHOWN,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="FILE",
            help="Write the originals into a new file that only you may read."
            " They may hold message texts.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the records that were rejected, and why; never what they say."""
    choice = _choice(reason, topic, partition, from_offset, to_offset, channel)
    if save is not None and channel is not None:
        raise Stop(
            "--save cannot choose by --channel: originals do not always name one", WRONG_USAGE
        )
    settings = settings_for(kafka=save is not None)
    found, reasons = with_engine(
        settings,
        lambda engine: reject_store.find(engine, choice, group=settings.group, records_max=limit),
    )
    saved = None if save is None else _save(settings, choice, save)
    if json:
        document: dict[str, Any] = {
            "rejected": sum(reasons.values()),
            "reasons": reasons,
            "dead_letters": [
                {**row._asdict(), "rejected_at": row.rejected_at.isoformat()} for row in found
            ],
        }
        print_json(document if saved is None else {**document, "saved": saved})
        return
    _show(found, reasons)
    if saved is not None:
        reports.console.print(f"saved {saved:,} originals to {save}: they may hold message texts")


def redeliver(
    reason: ReasonOption = None,
    topic: TopicOption = None,
    partition: PartitionOption = None,
    from_offset: FromOption = None,
    to_offset: ToOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All of them, whatever the reason.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
    json: JsonOption = False,
) -> None:
    """Send rejected records through the same topics again, as they were: what is in the books by
    now is a duplicate.
    """
    choice = _choice(reason, topic, partition, from_offset, to_offset, None)
    if choice.is_all != everything:
        raise Stop("say which ones, by --reason, --topic or offsets, or else --all", WRONG_USAGE)
    if json and not (yes or dry_run):
        raise Stop("--json does not ask: add --yes or --dry-run", WRONG_USAGE)
    settings = settings_for(database=False)

    async def work() -> tuple[Plan, int, int]:
        async with redelivery.open_box(settings) as box:
            plan = await redelivery.plan_of(box, choice, topics=settings.topics)
            if not json:
                _show_plan(plan)
            total = plan.chosen.total()
            if dry_run or not total:
                return plan, 0, 0
            if not yes and not typer.confirm(f"Send {total:,} records again?", err=True):
                raise Stop("nothing was sent")
            with reports.progress_bar("sending", total) as progress:
                sent, refused = await redelivery.send_again(settings, box, plan, progress=progress)
            return plan, sent, refused

    plan, sent, refused = run(work())
    if json:
        print_json(_plan_document(plan, sent, refused))
    elif not dry_run and plan.chosen:
        reports.console.print(
            f"sent {sent:,} records again; dead-letters lists what is rejected anew"
        )
    if refused:
        raise Stop(f"the broker refused {refused:,} records as too large for their topic")


def _choice(
    reasons: list[str] | None,
    topic: str | None,
    partition: int | None,
    from_offset: int | None,
    to_offset: int | None,
    channel: str | None,
) -> Choice:
    for reason in reasons or ():
        if reason not in REJECT_REASONS:
            raise Stop(
                f"there is no reason {shown(reason)}: choose from {', '.join(REJECT_REASONS)}",
                WRONG_USAGE,
            )
    if partition is not None and topic is None:
        raise Stop("--partition needs --topic: each topic has partitions of its own", WRONG_USAGE)
    if (from_offset, to_offset) != (None, None) and partition is None:
        raise Stop(
            "offsets need --topic and --partition: each partition counts its own", WRONG_USAGE
        )
    return Choice(tuple(reasons or ()), topic, partition, from_offset, to_offset, channel)


def _show(found: Sequence[reject_store.RejectedRecord], reasons: dict[str, int]) -> None:
    console = reports.console
    if not reasons:
        console.print("no record was rejected")
        return
    table = reports.a_table("reason", "records")
    for reason, count in reasons.items():
        table.add_row(reason, f"{count:,}")
    console.print(table)
    for row in found:
        at = row.rejected_at.isoformat(timespec="seconds")
        channel = "" if row.channel is None else f", channel {shown(row.channel)}"
        waited = ", after it waited" if row.was_parked else ""
        console.print(
            f"{at} {row.topic} partition {row.partition} offset {row.offset}:"
            f" {row.reason} ({row.detail}){channel}{waited}"
        )
    left_out = sum(reasons.values()) - len(found)
    if left_out:
        console.print(f"and {left_out:,} older ones: --limit lists more, --json all that it lists")


def _show_plan(plan: Plan) -> None:
    console = reports.console
    if plan.chosen:
        table = reports.a_table("topic", "reason", "records")
        table.columns[1].justify = "left"
        for (topic, reason), count in sorted(plan.chosen.items()):
            table.add_row(topic, reason, f"{count:,}")
        console.print(table)
    else:
        console.print("no dead letter is chosen")
    for count, words in (
        (plan.copies, "more are copies of these: each record is sent once"),
        (plan.cut, "came without their value, which was too large: only their topic has it"),
        (plan.foreign, "are none of ours, or of topics that are not read: left alone"),
    ):
        if count:
            console.print(f"{count:,} {words}")


def _plan_document(plan: Plan, sent: int, refused: int) -> dict[str, Any]:
    return {
        "chosen": [
            {"topic": topic, "reason": reason, "records": count}
            for (topic, reason), count in sorted(plan.chosen.items())
        ],
        "copies": plan.copies,
        "without_value": plan.cut,
        "foreign": plan.foreign,
        "sent": sent,
        "refused_as_too_large": refused,
    }


def _save(settings: Settings, choice: Choice, path: Path) -> int:
    """Write originals into a new file, one a line, in a form that `send` reads where it can."""

    async def work() -> int:
        count = 0
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise Stop(f"{path} is there already: choose another name") from None
        except OSError as error:
            raise Stop(f"{path} cannot be written: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as file:
            async with redelivery.open_box(settings) as box:
                async for letter in box.letters():
                    if letter is not None and choice.holds(*letter.found_at):
                        file.write(
                            orjson.dumps(_original(letter), option=orjson.OPT_APPEND_NEWLINE)
                        )
                        count += 1
        return count

    return int(run(work()))


def _original(letter: Letter) -> dict[str, Any]:
    line: dict[str, Any] = {"topic": letter.topic}
    try:
        line["raw"] = (letter.value or b"").decode()
    except UnicodeDecodeError:
        line["raw_base64"] = _base64(letter.value)
    line["rejected"] = {
        "reason": letter.reason,
        "detail": letter.detail,
        "partition": letter.partition,
        "offset": letter.offset,
        "key_base64": _base64(letter.key),
        "headers_base64": [[name, _base64(value)] for name, value in letter.headers],
    }
    return line


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()
