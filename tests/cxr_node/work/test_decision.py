"""What becomes of a job that raised, as a value."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from cxr_node.errors import (
    AssociationRefused,
    LeaseLost,
    NotNegotiated,
    PackageError,
    PoisonJob,
    Refused,
    Unreachable,
    UnreadablePixels,
)
from cxr_node.work import Drop, Fail, Retry, decide

pytestmark = pytest.mark.requirement("SRS-WRK-001")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unreachable("x"), Retry),
        (AssociationRefused("x"), Retry),
        (Refused("full", 0xA700), Retry),
        (Refused("bad", 0xA900), Fail),
        (Refused("bad", 0xC123), Fail),
        (NotNegotiated("x"), Fail),
        (UnreadablePixels("x"), Fail),
        (PackageError("x"), Fail),
        (PoisonJob("x"), Fail),
        (LeaseLost("x"), Drop),
        (ValueError("x"), Retry),
    ],
)
def test_each_class_of_error_has_its_consequence(error, kind):
    """A refused AE is not a network fault, and a bad dataset does not get better."""
    assert isinstance(decide(error, attempts=1, max_attempts=5, now=NOON, rng=random.Random(1)), kind)


def test_attempts_are_bounded():
    """A job ends in a state that a person can see."""
    assert isinstance(decide(Unreachable("x"), attempts=5, max_attempts=5, now=NOON, rng=random.Random(1)), Fail)


def test_a_retry_lies_ahead():
    """At once would be a busy loop."""
    decision = decide(Unreachable("x"), attempts=3, max_attempts=5, now=NOON, rng=random.Random(1))
    assert isinstance(decision, Retry)
    assert NOON < decision.run_at <= NOON + timedelta(seconds=301)
