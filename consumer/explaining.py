"""The command that explains one event, one command or one entry of the ledger."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from consumer import reports
from consumer.charting_words import UNITS
from consumer.terminal import (
    WRONG_USAGE,
    ChannelArgument,
    JsonOption,
    Stop,
    grouped,
    print_json,
    settings_for,
    shown,
    with_engine,
)
from metering.explanations import NotInTheBooks, explain_entry, explain_record

Document = dict[str, Any]

SHARED = "A batch is one settlement: its entries belong to all events of the product in it."


def explain(
    channel: ChannelArgument,
    source: Annotated[
        str | None, typer.Option("--source", metavar="SOURCE", help="Of the event, as sent.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Of the event, as sent.")
    ] = None,
    entry: Annotated[
        int | None, typer.Option("--entry", min=1, metavar="NUMBER", help="Of the ledger.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Explain one event, from its offset to the entries it caused, or one entry by the events
    behind it.
    """
    settings = settings_for(kafka=False)
    if entry is not None and source is None and event_id is None:
        number = entry
        asked = lambda engine: explain_entry(engine, channel, number)  # noqa: E731
    elif entry is None and source is not None and event_id is not None:
        origin, name = source, event_id
        asked = lambda engine: explain_record(engine, channel, origin, name)  # noqa: E731
    else:
        raise Stop("say --source and --id of an event or command, or --entry", WRONG_USAGE)
    try:
        document = with_engine(settings, asked)
    except NotInTheBooks as error:
        raise Stop(str(error)) from None
    if json:
        print_json(document)
    else:
        _SHOW[document["explains"]](document)


def _say(label: str, words: str) -> None:
    reports.console.print(f"{label:<12}{words}")


def _show_event(document: Document) -> None:
    _say("event", f"{shown(document['id'])} of {shown(document['source'])}")
    _say("channel", shown(document["channel"]))
    _say("read at", _place(document["record"]))
    _show_batch(document["batch"])
    _say("says", _content(document))
    if document["waits_for"]:
        waits = {"channel": "for its channel to be registered", "event": "for the event it names"}
        _say("state", f"waits {waits[document['waits_for']]}; it is in no tally and no entry yet")
        return
    if document["type"] == "void":
        target = document["takes_back"]
        _say("takes back", _place(target) if target else "an event that is no longer kept")
    else:
        late = ", the first open day: its own cycle had closed" if document["is_late"] else ""
        _say("counts on", f"{document['counts_on']}{late}")
        void = document["taken_back"]
        back = f": taken back by the record at {_place(void)}" if void else ""
        _say("state", f"{document['state']}{back}")
    if document["day"] is not None:
        _show_day(document["day"])
    if not document["settlements"]:
        _say("entries", "the account of its offset is no longer kept")
    for settlement in document["settlements"]:
        _show_settlement(settlement)


def _show_settlement(settlement: Document) -> None:
    console = reports.console
    others = settlement["events_in_all"] + settlement["events_that_had_waited"] - 1
    console.print()
    product = settlement["product"]
    others_too = f"with {_events(others, 'other ')} of {product}" if others > 0 else "alone"
    _say("settled", f"{settlement['booked_at']}, {others_too}")
    if others > 0:
        console.print(SHARED)
    if settlement["entries"]:
        _show_entries(settlement["entries"])
    else:
        console.print("It moved nothing: no entry was needed on its day or later.")


def _show_command(document: Document) -> None:
    _say("command", f"{shown(document['id'])} of {shown(document['source'])}")
    _say("channel", shown(document["channel"]))
    _say("read at", _place(document["record"]))
    _show_batch(document["batch"])
    _say("says", f"{document['command']} at {document['time']}")
    if document["waits_for"]:
        _say("state", "waits for its channel to be registered")
        return
    answer = f"refused: {document['refused']}" if document["refused"] else "granted"
    _say("state", answer)
    for settlement in document["settlements"]:
        reports.console.print()
        _say("settled", f"{settlement['booked_at']}, with all that was read in the same batch")
        if settlement["entries"]:
            _show_entries(settlement["entries"])
        else:
            reports.console.print("No entry was needed.")


def _show_entry(document: Document) -> None:
    entry = document["entry"]
    _say("entry", f"{entry['number']} of channel {shown(document['channel'])}")
    _say(
        "books", f"{_signed(entry['quantity'])} {entry['product']} on {entry['on']}: {_from(entry)}"
    )
    if entry["original_on"]:
        _say("late", f"the use was on {entry['original_on']}, in a cycle that had closed")
    if entry["after_record"]:
        _say("at", f"the record {_place(entry['after_record'])}, before or after which it settled")
    _say("settled", document["booked_at"])
    _show_day(document["day"])
    console = reports.console
    console.print()
    if document["settled_by"] == "clock":
        console.print(_CLOCK.get(entry["source"], _CLOCK_ELSE))
        return
    behind = document["events"]
    _say("batch", f"of {len(document['batch'])} partitions" + (", among them" if behind else ""))
    for part in document["batch"]:
        if any(_is_in(event["record"], part) for event in behind):
            _say("", _stretch_of(part))
    number, waited = document["events_in_all"], document["events_that_had_waited"]
    if number or waited:
        others = f", and {waited:,} that had waited for the channel" if waited else ""
        console.print(f"In it, of {entry['product']}, up to that day: {_events(number)}{others}")
    else:
        console.print("No event is behind it: a lot, a plan or the day changed what pays.")
    for event in behind:
        console.print(f"  {_place(event['record'])}: {_content(event)}, {event['state']}")
    if number > len(behind):
        console.print(f"  and {number - len(behind):,} more")


def _is_in(record: Document, part: Document) -> bool:
    return (record["topic"], record["partition"]) == (part["topic"], part["partition"]) and (
        part["from_offset"] <= record["offset"] <= part["to_offset"]
    )


_CLOCK = {
    "minimum": "Settled by the clock: the window ended and had given less than its minimum.",
    "expired": "Settled by the clock: the lot ended, and what it still held was gone.",
}
_CLOCK_ELSE = (
    "Settled by the clock: a day, a cycle or a window began or ended. No record stands behind it."
)


def _show_batch(batch: Document | None) -> None:
    if batch is None:
        _say("batch", "the account of this offset is no longer kept")
    else:
        _say(
            "batch",
            f"offsets {batch['from_offset']} to {batch['to_offset']},"
            f" committed {batch['committed_at']}",
        )


def _show_day(day: Document) -> None:
    parts = ", ".join(
        f"{grouped(part['quantity'])} {part['source']}"
        + (f" ({shown(part['lot'])})" if part["lot"] else "")
        for part in day["booked"]
    )
    usage = f"usage {grouped(day['usage'])} from {_events(day['events'])}"
    _say("that day", f"{day['product']} on {day['on']}: {usage}" + (f"; {parts}" if parts else ""))


def _show_entries(entries: list[Document]) -> None:
    table = reports.a_table("entry", "day", "product", "quantity", "from")
    table.columns[4].justify = "left"
    for entry in entries:
        table.add_row(
            str(entry["number"]),
            entry["on"],
            entry["product"],
            _signed(entry["quantity"]),
            _from(entry) + (f", used {entry['original_on']}" if entry["original_on"] else ""),
        )
    reports.console.print(table)


def _from(entry: Document) -> str:
    if not entry["lot"]:
        return str(entry["source"])
    words = f"{entry['source']} of {shown(entry['lot'])}"
    if entry["source"] in ("carried", "borrowed", "minimum") and entry["quota_of"]:
        words += f", quota of {entry['quota_of']}"
    return words


def _content(event: Document) -> str:
    if event["type"] == "void":
        return f"takes an event back, at {event['time']}"
    quantity = grouped(event["quantity"])
    if event["kind"]:
        words = f"{event['messages']:,} {event['kind']}, {quantity} PU"
    elif event["type"] == "distinct":
        words = f"{event['product']} {'assigned' if event['quantity'] == '1' else 'released'}"
    elif event["type"] == "level":
        words = f"{event['product']} is {quantity}"
    else:
        words = f"{quantity} {UNITS[event['product']]} of {event['product']}"
    return f"{words} at {event['time']}"


def _place(record: Document) -> str:
    return f"{record['topic']} partition {record['partition']} offset {record['offset']}"


def _stretch_of(part: Document) -> str:
    place = f"{part['topic']} partition {part['partition']}"
    return f"{place} offsets {part['from_offset']} to {part['to_offset']}"


def _events(number: int, other: str = "") -> str:
    return f"{number:,} {other}event{'' if number == 1 else 's'}"


def _signed(quantity: str) -> str:
    return grouped(quantity) if quantity.startswith("-") else "+" + grouped(quantity)


_SHOW = {"event": _show_event, "command": _show_command, "entry": _show_entry}
