"""What dashboards are made of: panels that ask Prometheus or the books, and variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from grafana_foundation_sdk.builders import barchart, common, dashboard, prometheus, table
from grafana_foundation_sdk.builders import timeseries as lines
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    StackingMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Iterable

METRICS = DataSourceRef(type_val="prometheus", uid="${datasource}")
BOOKS = DataSourceRef(type_val="grafana-postgresql-datasource", uid="${books}")

# Every selector names the members that are looked at.
MEMBERS = 'job=~"$job",instance=~"$instance"'
HALF, FULL, THIRD = 12, 24, 8
HEIGHT = 8


class SqlQuery(Dataquery):
    """A query of the views, which the SDK has no builder for."""

    def __init__(self, sql: str, shape: str) -> None:
        self._sql = sql
        self._shape = shape
        self.ref_id: str | None = None

    def to_json(self) -> dict[str, object]:
        """Write it as Grafana keeps it."""
        return {
            "datasource": BOOKS,
            "editorMode": "code",
            "format": self._shape,
            "rawQuery": True,
            "rawSql": self._sql,
            "refId": self.ref_id or "A",
        }


class Sql(Builder[SqlQuery]):
    """Builds a query of the views."""

    def __init__(self, sql: str, shape: str = "table") -> None:
        self._query = SqlQuery(sql, shape)

    def build(self) -> SqlQuery:
        """Hand it over."""
        return self._query


class Drawing(NamedTuple):
    """A panel: what it is called, what it tells, in what unit, and what it asks."""

    title: str
    description: str
    unit: str
    queries: tuple[Builder[Any], ...]
    span: int = THIRD
    is_stacked: bool = False


def asks(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Ask Prometheus for lines; `{}` stands for the members that are looked at."""
    written = expression.replace("{}", f"{{{MEMBERS}}}").replace("{,", f"{{{MEMBERS},")
    return prometheus.Dataquery().datasource(METRICS).expr(written).legend_format(legend).range()


def asks_now(expression: str) -> prometheus.Dataquery:
    """Ask Prometheus for a table of how things stand."""
    return asks(expression).instant().format(PromQueryFormat.TABLE)


def per_second(counter: str, by: str) -> str:
    """Write how fast a counter rises; its selector is `{}`, or `{,more}`."""
    return f"sum by ({by}) (rate({counter}[$__rate_interval]))"


def quantiles(histogram: str) -> tuple[prometheus.Dataquery, ...]:
    """Ask for the middle and the slow ends of a histogram."""
    rate = per_second(f"{histogram}_bucket{{}}", "le")
    return tuple(
        asks(f"histogram_quantile({quantile}, {rate})", f"{100 * quantile:g} %")
        for quantile in (0.5, 0.95, 0.99)
    )


def line_panel(drawing: Drawing) -> lines.Panel:
    """Draw lines over time."""
    panel = lines.Panel().fill_opacity(10).show_points(VisibilityMode.NEVER).min(0)
    if drawing.is_stacked:
        stacked = common.StackingConfig().mode(StackingMode.NORMAL).group("A")
        panel.fill_opacity(60).stacking(stacked)
    return _dressed(panel.datasource(METRICS), drawing)


def table_panel(drawing: Drawing) -> table.Panel:
    """Write a table of what Prometheus knows now, without its times."""
    tidy = DataTransformerConfig(
        id_val="organize", options={"excludeByName": {"Time": True, "job": True}}
    )
    return _dressed(table.Panel().datasource(METRICS).with_transformation(tidy), drawing)


def books_table(drawing: Drawing) -> table.Panel:
    """Write a table out of the books."""
    return _dressed(table.Panel().datasource(BOOKS), drawing)


def books_bars(drawing: Drawing) -> barchart.Panel:
    """Draw stacked bars out of the books."""
    panel = barchart.Panel().datasource(BOOKS).stacking(StackingMode.NORMAL)
    return _dressed(panel.orientation(VizOrientation.AUTO).x_tick_label_rotation(-45), drawing)


def books_days(drawing: Drawing) -> lines.Panel:
    """Draw stacked bars by day out of the books."""
    stacked = common.StackingConfig().mode(StackingMode.NORMAL).group("A")
    panel = lines.Panel().datasource(BOOKS).draw_style(GraphDrawStyle.BARS).stacking(stacked)
    return _dressed(panel.fill_opacity(80).min(0), drawing)


def _dressed(panel: Any, drawing: Drawing) -> Any:  # noqa: ANN401 - panels have no common type.
    panel.title(drawing.title).description(drawing.description).unit(drawing.unit)
    panel.height(HEIGHT).span(drawing.span)
    for number, query in enumerate(drawing.queries):
        if isinstance(query, prometheus.Dataquery):
            query.ref_id(chr(ord("A") + number))
        panel.with_target(query)
    return panel


def data_source(name: str, label: str, plugin: str, uid: str) -> dashboard.DatasourceVariable:
    """Let people choose where the data comes from."""
    chosen = VariableOption(text=label, value=uid)
    return dashboard.DatasourceVariable(name).label(label).type(plugin).current(chosen)


def members(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Let people choose one, several or all of what a label says."""
    everyone = VariableOption(text="All", value="$__all")
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(METRICS)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .multi(True)
        .all_value(".+")
        .current(everyone)
    )


def board(
    uid: str, title: str, description: str, variables: Iterable[Builder[VariableModel]] = ()
) -> dashboard.Dashboard:
    """Begin a dashboard: it can be looked at, not changed."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["lotmeter"])
        .readonly()
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(data_source("datasource", "Data source", "prometheus", "prometheus"))
        .with_variable(members("job", "Job", "label_values(lotmeter_build_info, job)"))
        .with_variable(
            members(
                "instance", "Instance", 'label_values(lotmeter_build_info{job=~"$job"}, instance)'
            )
        )
    )
    for variable in variables:
        built.with_variable(variable)
    return built
