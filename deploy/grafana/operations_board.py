"""The dashboard Operations: whether all is well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from panels import Drawing, asks, board, line_panel, per_second, quantiles

if TYPE_CHECKING:
    from collections.abc import Iterator


def operations() -> Dashboard:
    """Is it well: rate, errors, delay, lag, batches, database."""
    built = board(
        "lotmeter-operations",
        "lotmeter / Operations",
        "What flows, what fails, how late it is, and what the database does.",
    )
    for row, drawings in _operations():
        built.with_row(Row(row))
        for drawing in drawings:
            built.with_panel(line_panel(drawing))
    return built


def _operations() -> Iterator[tuple[str, list[Drawing]]]:
    yield (
        "Rate",
        [
            Drawing(
                "Records by outcome",
                "What becomes of the records that are read. All of them end as one of these.",
                "recps",
                (asks(per_second("lotmeter_records_total{}", "outcome"), "{{outcome}}"),),
                is_stacked=True,
            ),
            Drawing(
                "Records by topic",
                "How many records of each topic are read.",
                "recps",
                (asks(per_second("lotmeter_records_total{}", "topic"), "{{topic}}"),),
                is_stacked=True,
            ),
            Drawing(
                "Late and taken up",
                "Events counted in a later cycle because their own had closed, and records that had"
                " waited for a channel or an event.",
                "recps",
                (
                    asks("sum(rate(lotmeter_late_total{}[$__rate_interval]))", "late"),
                    asks(
                        per_second("lotmeter_taken_up_total{}", "outcome"), "taken up: {{outcome}}"
                    ),
                ),
            ),
        ],
    )
    yield (
        "Errors",
        [
            Drawing(
                "Rejected by reason",
                "Records set aside; their originals are on the topic of dead letters.",
                "recps",
                (asks(per_second("lotmeter_rejected_total{}", "reason"), "{{reason}}"),),
                is_stacked=True,
            ),
            Drawing(
                "Database errors",
                "Errors by what was wrong, and what is tried again because of them.",
                "ops",
                (
                    asks(per_second("lotmeter_database_errors_total{}", "reason"), "{{reason}}"),
                    asks(
                        per_second("lotmeter_database_retries_total{}", "reason"),
                        "again: {{reason}}",
                    ),
                ),
            ),
            Drawing(
                "Fenced batches and rebalances",
                "Batches dropped because a partition was claimed anew, and times that the group"
                " gave out its partitions.",
                "short",
                (
                    asks("sum(increase(lotmeter_fenced_total{}[$__rate_interval]))", "fenced"),
                    asks(
                        "sum(increase(lotmeter_rebalances_total{}[$__rate_interval]))", "rebalances"
                    ),
                ),
            ),
        ],
    )
    yield (
        "Delay and lag",
        [
            Drawing(
                "From event to books",
                "From the time that an event names to the commit that counts it. Producers that"
                " send late show here too.",
                "s",
                quantiles("lotmeter_event_delay_seconds"),
            ),
            Drawing(
                "Lag",
                "Offsets between what is in the books and the end of the topics.",
                "short",
                (asks("sum by (topic) (lotmeter_consumer_lag{})", "{{topic}}"),),
                is_stacked=True,
            ),
            Drawing(
                "Held back",
                "How long ago the time is up to which every partition is read, how long something"
                " due has not happened, and since when a member has committed nothing.",
                "s",
                (
                    asks("time() - max(lotmeter_read_up_to_timestamp_seconds{})", "read up to"),
                    asks("max(lotmeter_due_overdue_seconds{})", "overdue"),
                    asks(
                        "time() - max by (instance) (lotmeter_last_commit_timestamp_seconds{} > 0)",
                        "last commit of {{instance}}",
                    ),
                ),
            ),
        ],
    )
    yield (
        "Batches and partitions",
        [
            Drawing(
                "Seconds a batch",
                "From the first record of a batch to its commit.",
                "s",
                quantiles("lotmeter_batch_seconds"),
            ),
            Drawing(
                "Records a batch",
                "Batches grow with what waits: small ones are a good sign.",
                "short",
                (
                    asks(
                        "sum(rate(lotmeter_batch_records_sum{}[$__rate_interval]))"
                        " / sum(rate(lotmeter_batch_records_count{}[$__rate_interval]))",
                        "records",
                    ),
                ),
            ),
            Drawing(
                "Partitions",
                "Partitions that members hold; those that load are read soon, those that are halted"
                " are not until somebody decides.",
                "short",
                (
                    asks("sum(lotmeter_assigned_partitions{})", "assigned"),
                    asks("sum(lotmeter_loading_partitions{})", "loading"),
                    asks("sum(lotmeter_halted_partitions{})", "halted"),
                    asks(
                        "count(lotmeter_open_transaction_records{} > 0) or vector(0)", "held open"
                    ),
                ),
            ),
        ],
    )
    yield (
        "Database and outbox",
        [
            Drawing(
                "Outbox",
                "Notices, statements and dead letters that wait to be sent.",
                "short",
                (asks("max by (destination) (lotmeter_outbox_messages{})", "{{destination}}"),),
            ),
            Drawing(
                "Age of the outbox",
                "How long the oldest message waits.",
                "s",
                (asks("max(lotmeter_outbox_age_seconds{})", "oldest"),),
            ),
            Drawing(
                "Waiting records",
                "Records of channels that are not registered yet, and voids without their event.",
                "short",
                (asks("max(lotmeter_parked{})", "waiting"),),
            ),
            Drawing(
                "Since the last proof",
                "How long ago the books were last verified, and all channels were looked at.",
                "s",
                (
                    asks(
                        "time() - max by (scope) (lotmeter_verified_timestamp_seconds{} > 0)",
                        "{{scope}}",
                    ),
                    asks("time() - max(lotmeter_observed_timestamp_seconds{} > 0)", "channels"),
                ),
            ),
            Drawing(
                "Proved",
                "1: the last verification found no difference.",
                "short",
                (
                    asks(
                        "max by (scope) (lotmeter_verified_ok{})"
                        " and max by (scope) (lotmeter_verified_timestamp_seconds{} > 0)",
                        "{{scope}}",
                    ),
                ),
            ),
            Drawing(
                "Batches by result",
                "Batches that were recorded, fenced, or tried again because the database was away.",
                "ops",
                (asks(per_second("lotmeter_batches_total{}", "result"), "{{result}}"),),
            ),
        ],
    )
    yield (
        "Processes",
        [
            Drawing(
                "Processor",
                "Seconds of processor time a second: a member uses one at most.",
                "short",
                (asks(per_second("process_cpu_seconds_total{}", "instance"), "{{instance}}"),),
            ),
            Drawing(
                "Memory",
                "Resident memory of each member.",
                "bytes",
                (asks("max by (instance) (process_resident_memory_bytes{})", "{{instance}}"),),
            ),
            Drawing(
                "Lag of the event loop",
                "How late a member wakes: heartbeats wait as long.",
                "s",
                quantiles("lotmeter_loop_lag_seconds"),
            ),
        ],
    )
