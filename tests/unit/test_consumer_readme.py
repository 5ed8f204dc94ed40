"""The tables of consumer/README.md are what the code says."""

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase
from pydantic_core import PydanticUndefined

from consumer import metrics
from consumer.settings import Settings

README = Path(__file__).parents[2] / "consumer" / "README.md"
ROW = re.compile(r"\| `(.+?)` \| (.*?) ?\|")


def rows(heading):
    section = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [match.groups() for line in section.splitlines() if (match := ROW.fullmatch(line))]


def default_text(field):
    if field.default is PydanticUndefined:
        return "needed"
    if field.default is None:
        return ""
    return ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)


def test_every_setting_is_listed_with_its_default():
    assert rows("Settings") == [
        (name.upper(), default_text(field)) for name, field in Settings.model_fields.items()
    ]


def test_every_metric_is_listed_with_its_help():
    listed = []
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            suffix = "_total" if metric._type == "counter" else ""
            listed.append((metric._name + suffix, metric._documentation))
        elif isinstance(metric, metrics.CappedGauge):
            listed.append((metric.name, metric.documentation))

    assert rows("Metrics") == listed
    assert len(listed) > 30
