"""How long a destination in trouble is left alone."""

import pytest

from cxr_node.deliver.association import RejectedPermanent
from cxr_node.deliver.rest import FIRST_PERMANENT_S, LONGEST_PERMANENT_S, LONGEST_S, Rest
from cxr_node.errors import AssociationRefused, NotNegotiated, Refused, Unreachable

pytestmark = pytest.mark.requirement("SRS-DLV-005")


@pytest.mark.parametrize("error", [Unreachable("x"), AssociationRefused("x"), Refused("full", 0xA700)])
def test_a_destination_in_trouble_rests_longer_each_time_up_to_a_minute(error):
    """Every attempt on a dead PACS costs a timeout; one that is back must not wait for long."""
    rest, waits = Rest(), []
    for _ in range(20):
        rest = rest.after(error, 100.0)
        waits.append(rest.until - 100.0)
    assert waits == sorted(waits)
    assert 0 < waits[0] <= 1
    assert waits[-1] == LONGEST_S


def test_a_peer_that_needs_a_changed_setting_is_asked_slowly():
    """A node that knocks twice a second at a PACS that does not know it fills that PACS's log."""
    rest = Rest().after(RejectedPermanent("x"), 100.0)
    assert rest.until == 100.0 + FIRST_PERMANENT_S
    for _ in range(20):
        rest = rest.after(RejectedPermanent("x"), 100.0)
    assert rest.until == 100.0 + LONGEST_PERMANENT_S


@pytest.mark.parametrize("error", [None, Refused("bad", 0xC000), Refused("bad", 0xA900), NotNegotiated("x")])
def test_a_success_or_one_bad_object_ends_the_rest(error):
    """The destination answers: what waits for it may go."""
    assert Rest().after(Unreachable("x"), 100.0).after(error, 101.0) == Rest()
