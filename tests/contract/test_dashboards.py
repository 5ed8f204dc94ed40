"""Dashboards are what the script makes, and keep the rules of Grafana's dashboard linter.

The rules are those of its `lint --strict`, by their names; the two for Loki have nothing to look at
here, and queries of the books are SQL, which it does not know.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.exposition import names_of_series

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
BOARDS = {path.name: json.loads(path.read_text()) for path in GRAFANA.glob("dashboards/*.json")}

SELECTOR = re.compile(r"([a-z_:][a-z0-9_:]*)\{([^}]*)\}")
UNITS_KNOWN = {"short", "s", "bytes", "cps", "ops", "recps", "percentunit", "dateTimeAsIso"}

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def panels_of(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets_of(board, plugin):
    return [
        (panel["title"], target)
        for panel in panels_of(board)
        for target in panel["targets"]
        if target["datasource"]["type"] == plugin
    ]


def variables_of(board):
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def test_the_files_are_what_the_script_makes(monkeypatch):
    monkeypatch.syspath_prepend(str(GRAFANA))
    for name in ("make_dashboards", "operations_board", "panels", "prepaid_board"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from make_dashboards import documents  # noqa: PLC0415

    made = documents()

    assert made.keys() == BOARDS.keys()
    for name, text in made.items():
        path = GRAFANA / "dashboards" / name
        assert path.read_text(encoding="utf-8") == text, "run make dashboards"


@each_board
def test_template_datasource(board):
    variable = variables_of(board)["datasource"]

    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    assert variable["label"] == "Data source"


@each_board
@pytest.mark.parametrize("name", ["job", "instance"])
def test_template_job_and_template_instance(board, name):
    variable = variables_of(board)[name]

    assert variable["type"] == "query"
    assert variable["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert variable["label"] == name.title()
    assert variable["multi"] is True
    assert variable["includeAll"] is True
    assert variable["allValue"] == ".+"


@each_board
def test_template_label_promql_and_on_time_change_reload(board):
    for variable in variables_of(board).values():
        if variable["type"] == "query":
            assert re.fullmatch(r"label_values\([a-z_]+(\{[^}]*\})?, [a-z]+\)", variable["query"])
            assert variable["refresh"] == 2


@each_board
def test_uneditable_dashboard(board):
    assert board["editable"] is False
    assert board["title"]
    assert board["uid"]


@each_board
def test_panel_datasource(board):
    variables = variables_of(board)
    for panel in panels_of(board):
        for place in (panel, *panel["targets"]):
            name = re.fullmatch(r"\$\{(\w+)\}", place["datasource"]["uid"])[1]
            assert variables[name]["type"] == "datasource"
            assert variables[name]["query"] == place["datasource"]["type"]


@each_board
def test_panel_title_description_and_panel_units(board):
    titles = [panel["title"] for panel in panels_of(board)]

    assert len(set(titles)) == len(titles)
    for panel in panels_of(board):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS_KNOWN


@each_board
def test_panel_no_targets(board):
    for panel in panels_of(board):
        assert panel["targets"]
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names)


@each_board
def test_panels_do_not_lie_on_each_other(board):
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@each_board
def test_target_job_and_target_instance(board):
    for title, target in targets_of(board, "prometheus"):
        found = SELECTOR.findall(target["expr"])
        assert found, title
        for metric, selector in found:
            assert 'job=~"$job"' in selector, (title, metric)
            assert 'instance=~"$instance"' in selector, (title, metric)


@each_board
def test_target_rate_interval_and_target_counter_agg(board):
    for title, target in targets_of(board, "prometheus"):
        assert set(re.findall(r"\[([^]]*)\]", target["expr"])) <= {"$__rate_interval"}, title
        for metric, _ in SELECTOR.findall(target["expr"]):
            if metric.endswith(("_total", "_bucket", "_sum", "_count")):
                assert re.search(rf"\b(rate|increase)\({metric}\{{", target["expr"]), title


@each_board
def test_queries_ask_only_for_metrics_that_exist(board):
    asked = {
        metric
        for _, target in targets_of(board, "prometheus")
        for metric, _ in SELECTOR.findall(target["expr"])
    }

    assert asked <= names_of_series()
    assert asked


@each_board
@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: install prometheus"
)
def test_target_promql(board, tmp_path):
    rules = [
        {"record": f"query:{number}", "expr": target["expr"].replace("$__rate_interval", "5m")}
        for number, (_, target) in enumerate(targets_of(board, "prometheus"))
    ]
    path = tmp_path / "queries.yml"
    YAML().dump({"groups": [{"name": "queries", "rules": rules}]}, path)

    done = subprocess.run(
        ["promtool", "check", "rules", path], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_variables_point_at_the_data_sources_that_are_provisioned():
    provisioned = YAML(typ="safe").load(GRAFANA / "provisioning/datasources/lotmeter.yml")
    known = {(source["uid"], source["type"]) for source in provisioned["datasources"]}

    for board in BOARDS.values():
        for variable in variables_of(board).values():
            if variable["type"] == "datasource":
                assert (variable["current"]["value"], variable["query"]) in known
