"""How hard the properties are tried: LOTMETER_EFFORT=20 tries twenty times as many examples."""

import os

from hypothesis import HealthCheck, settings

EFFORT = float(os.environ.get("LOTMETER_EFFORT", "1"))


def examples(usually: int) -> settings:
    """Try so many examples, however long one takes."""
    return settings(
        max_examples=max(1, round(usually * EFFORT)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
