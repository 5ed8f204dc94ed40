"""Everything that can go wrong, and what to do about it.

MeteringError
├── Rejected       never going to work: keep the original bytes, say why, carry on
├── Refused        the record is fine, the answer is no: tell who asked
├── Fenced         another member reads this partition now: drop the batch, claim again
├── Halted         this partition cannot be trusted: stop reading it, loudly
├── Unavailable    the world is unwell: keep the records, read the position again, try again
└── BadCatalog     whoever runs the system must correct the catalog file

Any other exception is a bug in this program. It stops the process.
"""

from __future__ import annotations

import traceback

# In the order in which they are looked for: the first that holds is the reason.
REJECT_REASONS = (
    "too_large",
    "malformed",
    "unknown_type",
    "wrong_topic",
    "empty_text",
    "no_price",
    "in_future",
    "too_old",
    "conflict",
    "not_voidable",
    "already_voided",
    "cycle_closed",
    "unknown_channel",
    "unknown_event",
    "unprocessable",
)
REFUSAL_REASONS = (
    "already_registered",
    "too_late",
    "lot_exists",
    "in_trial",
    "free_plan",
    "quantity_out_of_bounds",
    "over_plan_limit",
    "unknown_lot",
    "unknown_reservation",
    "refund_window_over",
    "already_deducted",
)


class MeteringError(Exception):
    """The root of all expected failures."""


class Rejected(MeteringError):
    """A record that cannot be counted; `detail` never quotes what the record holds."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REJECT_REASONS, reason
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Refused(MeteringError):
    """A command that was understood and not granted."""

    def __init__(self, reason: str) -> None:
        assert reason in REFUSAL_REASONS, reason
        super().__init__(reason)
        self.reason = reason


class Fenced(MeteringError):
    """The position of a partition was moved or claimed by another member."""


class Halted(MeteringError):
    """The log under a partition's name is not the one that was read before."""


class Unavailable(MeteringError):
    """The database did not answer, or not in time: the outcome is unknown."""


class BadCatalog(MeteringError):
    """The catalog file cannot be used; the message names the place."""


def let_go(error: BaseException) -> None:
    """Forget what the frames that an error went through were working on.

    Errors of drivers stand in cycles with them, and a batch is large: the collector of cycles,
    which runs seldom, would come too late.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
