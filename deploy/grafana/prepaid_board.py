"""The dashboard Prepaid: who pays for usage, and who has used up what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row, TextBoxVariable

from panels import (
    FULL,
    HALF,
    MEMBERS,
    THIRD,
    Drawing,
    Sql,
    asks,
    asks_now,
    board,
    books_bars,
    books_days,
    books_table,
    data_source,
    line_panel,
    members,
    per_second,
    table_panel,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def prepaid() -> Dashboard:
    """Who pays for usage, who has used up what, and the months of one channel."""
    channel = TextBoxVariable("channel").label("Channel").default_value("channel-00001")
    built = board(
        "lotmeter-prepaid",
        "lotmeter / Prepaid",
        "Who pays for usage, which channels have used up what, and the months of one channel.",
        [
            members(
                "product",
                "Product",
                f"label_values(lotmeter_units_booked_total{{{MEMBERS}}}, product)",
            ),
            data_source("books", "Books", "grafana-postgresql-datasource", "books"),
            channel,
        ],
    )
    built.with_row(Row("Usage"))
    for drawing in _usage():
        built.with_panel(line_panel(drawing))
    built.with_row(Row("Channels"))
    for make, drawing in _channels():
        built.with_panel(make(drawing))
    built.with_row(Row("Channel $channel"))
    for make, drawing in _one_channel():
        built.with_panel(make(drawing))
    return built


BOOKED = 'lotmeter_units_booked_total{,product=~"$product"}'
RETURNED = 'lotmeter_units_returned_total{,product=~"$product"}'


def _net(source: str) -> str:
    """Write how many units of a source are booked in a second, less what was taken back."""
    booked, returned = (
        per_second(counter.replace("}", f',source="{source}"}}'), "product")
        for counter in (BOOKED, RETURNED)
    )
    return f"{booked} - {returned}"


def _usage() -> Iterator[Drawing]:
    yield Drawing(
        "Units by source",
        "What pays for usage, in units a second: what the plan includes, the month's own quota,"
        " what earlier months left, later months, nobody yet.",
        "cps",
        (asks(f"{per_second(BOOKED, 'source')} - {per_second(RETURNED, 'source')}", "{{source}}"),),
        is_stacked=True,
    )
    yield Drawing(
        "Borrowed units",
        "Units a second that later months lend, less what was taken back.",
        "cps",
        (asks(_net("borrowed"), "{{product}}"),),
    )
    yield Drawing(
        "Postpaid units",
        "Units a second that nothing prepaid pays, less what was taken back.",
        "cps",
        (asks(_net("postpaid"), "{{product}}"),),
    )


def _channels() -> Iterator[tuple[Any, Drawing]]:
    yield (
        line_panel,
        Drawing(
            "Channels that have used something up",
            "quota: what lots bring this month; maximum: the most that a month gives; lot: all that"
            " was bought; limit: of the plan or the channel.",
            "short",
            (
                asks(
                    'max by (product, what) (lotmeter_channels_exhausted{,product=~"$product"})',
                    "{{product}}: {{what}}",
                ),
            ),
        ),
    )
    yield (
        table_panel,
        Drawing(
            "Worst channels",
            "The channels that have used the largest share of each kind, as many as are exported.",
            "percentunit",
            (
                asks_now(
                    "sort_desc(max by (channel, product, what)"
                    ' (lotmeter_channel_usage_ratio{,product=~"$product"}))'
                ),
            ),
        ),
    )
    yield (
        line_panel,
        Drawing(
            "Notices",
            "What customers and services are told, by kind.",
            "cps",
            (asks(per_second("lotmeter_notices_total{}", "kind"), "{{kind}}"),),
        ),
    )
    yield (
        line_panel,
        Drawing(
            "Lots that end",
            "Lots that end within 30 days and are not renewed.",
            "short",
            (
                asks(
                    'max by (product) (lotmeter_lots_expiring{,product=~"$product"})',
                    "{{product}}",
                ),
            ),
        ),
    )
    yield (
        table_panel,
        Drawing(
            "Next lots that end",
            "When the first lot of a channel ends that is not renewed, of the channels next to it.",
            "dateTimeAsIso",
            (
                asks_now(
                    "sort(1000 * min by (channel, product)"
                    ' (lotmeter_lot_ends_timestamp_seconds{,product=~"$product"}))'
                ),
            ),
            span=2 * THIRD,
        ),
    )


def _one_channel() -> Iterator[tuple[Any, Drawing]]:
    yield (
        books_days,
        Drawing(
            "Usage by day and source",
            "Units of each day in the channel's time zone, by what paid for them.",
            "short",
            (
                Sql(
                    "SELECT on_day::timestamptz AS time, product || ' ' || source AS metric, units"
                    " FROM channel_daily_usage WHERE channel = ${channel:sqlstring}"
                    " AND $__timeFilter(on_day) ORDER BY time, metric",
                    "time_series",
                ),
            ),
            span=HALF,
        ),
    )
    yield (
        books_bars,
        Drawing(
            "Months of the lots",
            "What each month of each lot gave: from its own quota, from earlier months, from later"
            " ones, and the minimum that was deducted.",
            "short",
            (
                Sql(
                    "SELECT starts_on || ' ' || product || ' ' || lot AS month, own, carried,"
                    " borrowed, minimum FROM channel_lot_month"
                    " WHERE channel = ${channel:sqlstring} ORDER BY starts_on, product, lot"
                ),
            ),
            span=HALF,
        ),
    )
    yield (
        books_table,
        Drawing(
            "Cycles",
            "What each cycle came to: the numbers of lotmeter statement.",
            "short",
            (
                Sql(
                    "SELECT starts_on, ends_on, is_closed, product, usage, included, own, carried,"
                    " borrowed, postpaid FROM channel_cycle_usage"
                    " WHERE channel = ${channel:sqlstring} ORDER BY starts_on DESC, product"
                ),
            ),
            span=FULL,
        ),
    )
    yield (
        books_table,
        Drawing(
            "Lots",
            "What the channel has bought: the numbers of lotmeter lots.",
            "short",
            (
                Sql(
                    "SELECT lot, product, quantity, starts_on, ends_on, state, renew, pool, price"
                    " FROM channel_lot WHERE channel = ${channel:sqlstring} ORDER BY starts_on, lot"
                ),
            ),
            span=HALF,
        ),
    )
    yield (
        books_table,
        Drawing(
            "Windows",
            "Each month of each lot: its quota, the most that it may give, what it gave, and what"
            " it lent to earlier ones.",
            "short",
            (
                Sql(
                    "SELECT lot, product, starts_on, ends_on, quota, maximum, own, carried,"
                    " borrowed, minimum, lent FROM channel_lot_month"
                    " WHERE channel = ${channel:sqlstring} ORDER BY starts_on, lot"
                ),
            ),
            span=HALF,
        ),
    )
