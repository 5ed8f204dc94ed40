"""The names that queries can ask for."""

from prometheus_client import REGISTRY

from consumer import metrics

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}


def names_of_series() -> set[str]:
    """Name every series that a member shows, whatever its labels."""
    assert metrics.RECORDS  # Metrics are known once their module is loaded.
    return {
        family.name + suffix
        for family in REGISTRY.collect()
        for suffix in SUFFIXES.get(family.type, ("",))
    }
