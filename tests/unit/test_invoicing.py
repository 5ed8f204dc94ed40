"""What invoicing hears of a closed cycle: its plan and the lots as they then stood, too."""

from tests.builders import instant, purchased, registered, workflow
from tests.fakes import MemoryMeter

CLOSED = "2024-02-04"


def statements_of(*lines, as_of=CLOSED, batches=False):
    meter = MemoryMeter()
    for line in lines:
        if batches:
            meter.take_batch([line])
        else:
            meter.take([line])
    meter.wait_until(instant(as_of))
    meter.document()
    return [closing.statement for closing in meter.effects.closings]


def bought_and_used(*later):
    return (
        registered("2024-01-01", plan="growth"),
        purchased("2024-01-01", "workflow", 100, "l-1"),
        purchased("2024-01-15", "workflow", 1000, "l-2"),
        workflow("2024-01-10", 120),
        *later,
    )


def test_a_statement_is_the_cycle_with_its_plan_and_lots():
    [statement] = statements_of(*bought_and_used())

    assert {name: statement[name] for name in ("starts_on", "ends_on", "closed", "plan")} == {
        "starts_on": "2024-01-01",
        "ends_on": "2024-01-31",
        "closed": True,
        "plan": "growth",
    }
    assert statement["products"]["workflow"]["borrowed"] == "20"
    assert [lot["lot"] for lot in statement["lots"]] == ["l-1", "l-2"]
    assert [lot["pool"] for lot in statement["lots"]] == ["1080", "12000"]


def test_what_the_next_cycle_takes_before_the_closing_is_not_in_the_lots_of_a_statement():
    quiet = statements_of(*bought_and_used())
    busy = bought_and_used(workflow("2024-02-02", 900), workflow("2024-02-03", 400))

    assert statements_of(*busy) == quiet
    assert statements_of(*busy, batches=True) == quiet


def test_the_minimum_of_a_window_that_ends_with_the_cycle_is_in_its_statement():
    [statement] = statements_of(
        registered("2024-01-01"),
        purchased("2024-01-01", "workflow", 100),
        workflow("2024-01-10", 20),
        workflow("2024-02-01", 60),
    )

    [lot] = statement["lots"]
    assert lot["windows"] == [
        {
            "starts_on": "2024-01-01",
            "own": "20",
            "carried": "0",
            "borrowed": "0",
            "minimum": "30",
            "lent": "0",
        }
    ]
    assert lot["pool"] == "1150"


def test_a_lot_that_ends_with_the_cycle_still_holds_what_expires_the_day_after():
    lines = (
        registered("2024-01-01"),
        purchased("2024-01-01", "workflow", 100),
        workflow("2024-12-31", 100, clock="2024-12-31"),
    )

    *_, december = statements_of(*lines, as_of="2025-01-04")

    [lot] = december["lots"]
    assert (lot["state"], lot["pool"]) == ("active", "550")


def test_months_that_are_caught_up_with_at_once_have_the_statements_they_would_have_had():
    lines = (
        registered("2024-01-01"),
        purchased("2024-01-01", "workflow", 100),
        workflow("2024-01-10", 150),
        workflow("2024-02-10", 70),
        workflow("2024-03-10", 10),
    )
    behind = MemoryMeter()
    behind.take_batch(lines[:1])
    behind._begin(due_clock=behind.clock)
    for line in lines[1:]:
        behind.taking.take(behind._arrival(line))
    behind._settle()
    behind._begin()
    behind.wait_until(instant("2024-04-04"))
    behind.document()

    found = [closing.statement for closing in behind.effects.closings]

    assert found == statements_of(*lines, as_of="2024-04-04")
    assert [each["lots"][0]["pool"] for each in found] == ["1050", "980", "930"]
