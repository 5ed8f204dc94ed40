"""What time it is, for those who may ask."""

from __future__ import annotations

import time


def now_instant() -> int:
    """Tell the time, in microseconds since 1970."""
    return time.time_ns() // 1_000
