"""Priority: the AI raises or leaves alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_node.findings.priority import (
    OrderedPriority,
    UpsPriority,
    effective_priority,
    parse_ordered,
    rank,
    ups_priority,
)

pytestmark = pytest.mark.requirement("SRS-PRI-001")

ANY = st.sampled_from(list(OrderedPriority))


@given(ordered=ANY, ai=st.none() | ANY)
def test_the_effective_priority_is_never_below_the_ordered_one(ordered, ai):
    """A computer-aided triage device may not downgrade a study."""
    assert rank(effective_priority(ordered, ai)) >= rank(ordered)


@given(ordered=ANY)
def test_without_an_ai_priority_the_order_stands(ordered):
    """No result, refused image, failure: as if the node were not there."""
    assert effective_priority(ordered, None) is ordered


@given(first=ANY, second=ANY)
def test_ups_priority_keeps_the_order(first, second):
    """Three levels may merge neighbours, never swap them."""
    order = [UpsPriority.LOW, UpsPriority.MEDIUM, UpsPriority.HIGH]
    if rank(first) >= rank(second):
        assert order.index(ups_priority(first)) >= order.index(ups_priority(second))


@pytest.mark.parametrize("text", [None, "", "  ", "URGENTISH", "\u65e5"])
def test_an_unknown_ordered_priority_is_routine(text):
    """A sender's own word is not guessed at."""
    assert parse_ordered(text) is OrderedPriority.ROUTINE


def test_a_ordered_priority_is_read_whatever_its_case():
    """Defined terms are upper case; senders are not always."""
    assert parse_ordered(" stat ") is OrderedPriority.STAT
