"""Each alert fires when it should, is silent when it should be, and says what to do."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest
from ruamel.yaml import YAML

from consumer import metrics
from tests.exposition import names_of_series

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
OPERATIONS = ROOT / "docs" / "operations.md"

GROUPS = YAML(typ="safe").load(RULES)["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}

WITHOUT_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: install prometheus"
)


def series(metric, values, *, instance="a:1", **labels):
    """Write a series of one member."""
    labels = {"job": "lotmeter", "instance": instance} | labels
    written = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{metric}{{{written}}}", values


def ratio(what, value, *, product="workflow"):
    # Every member shows the same: one alert of it.
    labels = {"channel": "c-1", "product": product, "what": what}
    return [
        series("lotmeter_channel_usage_ratio", f"{value}+0x200", instance=instance, **labels)
        for instance in ("a:1", "b:1")
    ]


def lag(records):
    return series("lotmeter_consumer_lag", f"{records}x200", topic="t", partition="0")


def committed(values):
    return series("lotmeter_last_commit_timestamp_seconds", values)


def read(values):
    return series("lotmeter_records_total", values, topic="t", outcome="applied")


def rejected(values, reason="malformed"):
    return series("lotmeter_rejected_total", values, reason=reason)


def delays(in_a_minute):
    counts = {"60": in_a_minute, "300": 100, "+Inf": 100}
    return [
        series("lotmeter_event_delay_seconds_bucket", f"0+{count}x200", le=le)
        for le, count in counts.items()
    ]


def open_transaction(values):
    return series("lotmeter_open_transaction_records", values, topic="t", partition="0")


def verified(at, *, ok=1, scope="full"):
    return [
        series("lotmeter_verified_ok", f"{ok}x2000", scope=scope),
        series("lotmeter_verified_timestamp_seconds", f"{at}+0x2000", scope=scope),
    ]


def lot_ends(at):
    labels = {"channel": "c-1", "product": "workflow"}
    return series("lotmeter_lot_ends_timestamp_seconds", f"{at}x200", **labels)


MEMBER = {"instance": "a:1"}
CHANNEL = {"channel": "c-1", "product": "workflow"}

# For each alert: series that make it fire, the labels that it has then, and series that do not.
# A value comes a minute; they are looked at after ninety, if nothing else stands at the end.
CASES = {
    "LotmeterAbsent": (
        [series("up", "0x200"), series("up", "1x200", job="other")], {}, [series("up", "1x200")],
    ),
    "LotmeterMemberDown": (
        [series("up", "0x200"), series("up", "1x200", instance="b:1")], MEMBER,
        [series("up", "1x200"), series("up", "0x200", job="other")],
    ),
    "LotmeterStalled": (
        [lag(5), committed("0+60x80 4800x120")], MEMBER, [lag(5), committed("0+60x200")],
    ),
    "LotmeterLagging": (
        [lag(100_000), read("0+6000x200")], {}, [lag(50_000), read("0+6000x200")],
    ),
    "LotmeterDelayed": (delays(90), {}, delays(99)),
    "LotmeterPartitionHalted": (
        [series("lotmeter_halted_partitions", "0x88 1x100")], MEMBER,
        [series("lotmeter_halted_partitions", "0x200")],
    ),
    "LotmeterFencedOften": (
        [series("lotmeter_fenced_total", "0+1x200")], {},
        [series("lotmeter_fenced_total", "0x80 8x120")],
    ),
    "LotmeterOpenTransaction": (
        [open_transaction("7x200")], {"topic": "t", "partition": "0"},
        [open_transaction("7x80 0x120")],
    ),
    "LotmeterDeadLetters": (
        [rejected("0+3x200"), read("0+100x200")], {}, [rejected("0+1x200"), read("0+100x200")],
    ),
    "LotmeterUnprocessable": (
        [rejected("0x80 1x120", "unprocessable")], {},
        [rejected("0x200", "unprocessable"), rejected("0+3x200")],
    ),
    "LotmeterOutboxOld": (
        [series("lotmeter_outbox_age_seconds", "0+60x200")], {},
        [series("lotmeter_outbox_age_seconds", "200x200")],
    ),
    "LotmeterOverdue": (
        [series("lotmeter_due_overdue_seconds", "0+60x200")], {},
        [series("lotmeter_due_overdue_seconds", "30x200")],
    ),
    "LotmeterClosingHeldBack": (
        [series("lotmeter_read_up_to_timestamp_seconds", "0+60x30 1800x170")], {},
        [series("lotmeter_read_up_to_timestamp_seconds", "0+60x200")],
    ),
    "LotmeterDatabaseErrors": (
        [series("lotmeter_database_errors_total", "0+10x200", reason="lock")], {"reason": "lock"},
        [series("lotmeter_database_errors_total", "0x80 5x120", reason="lock")],
    ),
    "LotmeterBooksWrong": (
        [*verified(5, ok=0), *verified(6, scope="quick")], {"scope": "full"},
        # Nobody has verified yet.
        verified(0, ok=0),
    ),
    "LotmeterNotVerified": (
        verified(0), {}, [*verified(0), *verified(60_000, scope="quick")], "30h",
    ),
    "LotmeterGaugesOld": (
        [series("lotmeter_observed_timestamp_seconds", "0x200")], {},
        [series("lotmeter_observed_timestamp_seconds", "0+60x200")],
    ),
    "LotmeterQuotaNear": (ratio("quota", 0.8), CHANNEL, ratio("quota", 1.0)),
    "LotmeterQuotaExhausted": (ratio("quota", 1), CHANNEL, ratio("quota", 0.999)),
    "LotmeterMaximumNear": (ratio("maximum", 0.9), CHANNEL, ratio("maximum", 0.7)),
    "LotmeterMaximumExhausted": (ratio("maximum", 1), CHANNEL, ratio("quota", 1.5)),
    "LotmeterLotNear": (
        ratio("lot", 0.85, product="pu"), CHANNEL | {"product": "pu"},
        # By its last month a lot with windows is nearly empty, as it should be.
        ratio("lot", 0.95),
    ),
    "LotmeterLotExhausted": (ratio("lot", 1), CHANNEL, ratio("lot", 0.99)),
    "LotmeterLimitNear": (ratio("limit", 0.8), CHANNEL, ratio("limit", 0.79)),
    "LotmeterLimitExhausted": (ratio("limit", 1), CHANNEL, ratio("limit", 0.99)),
    "LotmeterLotExpiring": ([lot_ends(500_000)], CHANNEL, [lot_ends(700_000)]),
}  # fmt: skip


def unit_test(alert, given, labels, at):
    """Write a test of promtool: that the alert fires with these labels, or with None that it does
    not fire.
    """
    wanted = []
    if labels is not None:
        severity = ALERTS[alert]["labels"]["severity"]
        state = {
            "alertname": alert,
            "alertstate": "firing",
            "job": "lotmeter",
            "severity": severity,
        }
        text = ",".join(f'{name}="{value}"' for name, value in (state | labels).items())
        wanted = [{"labels": f"ALERTS{{{text}}}", "value": 1}]
    expression = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given],
        "promql_expr_test": [{"expr": expression, "eval_time": at, "exp_samples": wanted}],
    }


def promtool_agrees(folder, tests, *, interval="5m"):
    path = folder / "tests.yml"
    document = {"rule_files": [str(RULES)], "evaluation_interval": interval, "tests": tests}
    YAML().dump(document, path)
    done = subprocess.run(
        ["promtool", "test", "rules", path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@WITHOUT_PROMTOOL
def test_each_alert_fires_when_it_should_and_only_then(tmp_path):
    quick, slow = [], []
    for alert, (firing, labels, silent, *at) in CASES.items():
        for given, expected in ((firing, labels), (silent, None)):
            tests = slow if at else quick
            tests.append(unit_test(alert, given, expected, at[0] if at else "90m"))

    # All at once: what takes long is to start it, and to go through days by minutes.
    promtool_agrees(tmp_path, quick)
    promtool_agrees(tmp_path, slow, interval="15m")


@WITHOUT_PROMTOOL
def test_an_alert_about_a_channel_reads_like_a_sentence(tmp_path):
    alert = "LotmeterLimitExhausted"
    expected = {
        "exp_labels": {"job": "lotmeter", "severity": "warning"} | CHANNEL,
        "exp_annotations": {
            "summary": "A channel has reached its limit",
            "description": "Channel c-1 has used 125% of its limit of workflow in this cycle."
            " Usage beyond it is metered and billed like any other.",
            "runbook_url": "docs/operations.md#lotmeterlimitexhausted",
        },
    }

    test = unit_test(alert, ratio("limit", 1.25), CHANNEL, "90m")
    asked = {"eval_time": "90m", "alertname": alert, "exp_alerts": [expected]}
    promtool_agrees(tmp_path, [test | {"alert_rule_test": [asked]}])


def test_every_alert_is_tried():
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_it_is_and_where_its_runbook_stands(alert):
    rule = ALERTS[alert]

    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / page == OPERATIONS
    assert anchor == alert.lower()
    runbook = OPERATIONS.read_text(encoding="utf-8").split("\n## Runbook\n")[1]
    section = runbook.split(f"\n### {alert}\n")[1].split("\n### ")[0]
    assert len(section.split()) > 10


def test_the_runbook_has_no_alert_that_is_no_more():
    runbook = OPERATIONS.read_text(encoding="utf-8").split("\n## Runbook\n")[1]

    assert re.findall(r"^### (\w+)$", runbook, re.MULTILINE) == list(ALERTS)


def test_alerts_ask_only_for_metrics_that_exist():
    known = names_of_series()

    for alert, rule in ALERTS.items():
        asked = set(re.findall(r"\blotmeter_\w+", rule["expr"]))
        assert asked <= known, alert
        assert asked or "up{" in rule["expr"]


@WITHOUT_PROMTOOL
def test_what_members_show_keeps_the_rules_of_prometheus():
    metrics.prepare(["usage.workflow"])

    done = subprocess.run(
        ["promtool", "check", "metrics"],
        check=False,
        input=generate_latest(REGISTRY),
        capture_output=True,
    )

    findings = done.stderr.decode().splitlines()
    assert [line for line in findings if line.startswith("lotmeter_")] == []
