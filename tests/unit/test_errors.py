"""What failed is let go at once: the collector of cycles comes seldom, and batches are large."""

import gc
import weakref

import pytest

from metering.errors import Unavailable, let_go


class Batch:
    """Something large."""


@pytest.fixture(autouse=True)
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def fail_as_drivers_do(batch):
    """Raise an error that stands in a cycle with the frame that has the batch, behind another."""
    cause = ConnectionResetError()
    try:
        assert batch is not None
        raise cause
    except ConnectionResetError as error:
        raise Unavailable("the connection went") from error


@pytest.mark.parametrize("is_let_go", [True, False])
def test_a_batch_is_in_no_cycle_once_its_error_is_let_go(is_let_go):
    batch = Batch()
    seen = weakref.ref(batch)
    try:
        fail_as_drivers_do(batch)
    except Unavailable as error:
        if is_let_go:
            let_go(error)

    del batch

    # Without it the batch stays: so this test can fail.
    assert (seen() is None) == is_let_go
