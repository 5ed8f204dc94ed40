"""Makes the dashboards: run it, commit what it writes. `make dashboards` does."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from operations_board import operations
from prepaid_board import prepaid

DASHBOARDS = Path(__file__).parent / "dashboards"


def documents() -> dict[str, str]:
    """Write each dashboard as its file is."""
    return {
        f"{name}.json": json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, built in (("operations", operations()), ("prepaid", prepaid()))
    }


if __name__ == "__main__":
    for name, text in documents().items():
        (DASHBOARDS / name).write_text(text, encoding="utf-8")
