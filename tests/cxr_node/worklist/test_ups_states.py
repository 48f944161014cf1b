"""The state table of a Unified Procedure Step, cell by cell (PS3.4 table CC.1.1-2)."""

import pytest

from cxr_node.worklist.ups_states import WORDS, is_failure, on_change, on_request_cancel, on_set

pytestmark = pytest.mark.requirement("SRS-UPS-001")

STATES = (None, "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")

# Request, right Transaction UID → status for: no such item, SCHEDULED, IN PROGRESS, COMPLETED, CANCELED.
TABLE = {
    ("IN PROGRESS", True): (0xC307, 0x0000, 0xC302, 0xC300, 0xC300),
    ("IN PROGRESS", False): (0xC307, 0xC301, 0xC301, 0xC301, 0xC301),
    ("SCHEDULED", True): (0xC307, 0xC303, 0xC303, 0xC303, 0xC303),
    ("SCHEDULED", False): (0xC307, 0xC303, 0xC303, 0xC303, 0xC303),
    ("COMPLETED", True): (0xC307, 0xC310, 0x0000, 0xB306, 0xC300),
    ("COMPLETED", False): (0xC307, 0xC301, 0xC301, 0xC301, 0xC301),
    ("CANCELED", True): (0xC307, 0xC310, 0x0000, 0xC300, 0xB304),
    ("CANCELED", False): (0xC307, 0xC301, 0xC301, 0xC301, 0xC301),
}
LOCK, OTHER = "2.25.1", "2.25.2"


@pytest.mark.parametrize(
    ("requested", "is_right", "state", "expected"),
    [
        (requested, is_right, state, expected)
        for (requested, is_right), row in TABLE.items()
        for state, expected in zip(STATES, row, strict=True)
    ],
)
def test_a_change_of_state_is_answered_as_the_standard_says(requested, is_right, state, expected):
    """In SCHEDULED there is no lock yet: any Transaction UID is the right one, and only a missing one is wrong."""
    lock = "" if state in (None, "SCHEDULED") else LOCK
    wrong = "" if state == "SCHEDULED" else OTHER
    assert on_change(state, lock, requested, LOCK if is_right else wrong) == expected
    if not is_right:
        assert on_change(state, lock, requested, "") == expected


@pytest.mark.parametrize(("state", "expected"), zip(STATES, (0xC307, 0x0000, 0x0000, 0xC311, 0xB304), strict=True))
def test_a_request_to_cancel_is_answered_as_the_standard_says(state, expected):
    """Table CC.1.1-2, row Request Cancel."""
    assert on_request_cancel(state) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, (0xC307, 0x0000, 0xC301, 0xC300, 0xC300)),
        (LOCK, (0xC307, 0xC310, 0x0000, 0xC300, 0xC300)),
        (OTHER, (0xC307, 0xC310, 0xC301, 0xC300, 0xC300)),
        ("", (0xC307, 0xC310, 0xC301, 0xC300, 0xC300)),
    ],
)
def test_setting_attributes_needs_the_lock_only_where_there_is_one(given, expected):
    """CC.2.6.2: to a SCHEDULED item the Transaction UID shall not be present."""
    assert tuple(on_set(state, LOCK, given) for state in STATES) == expected


def test_an_item_canceled_by_the_scp_has_no_lock_that_an_empty_uid_would_open():
    """Compared as text, an empty Transaction UID would equal an empty lock."""
    assert on_change("CANCELED", "", "CANCELED", "") == 0xC301
    assert on_set("IN PROGRESS", "", "") == 0xC301


@pytest.mark.parametrize("state", STATES[1:])
def test_a_state_that_is_none_is_an_invalid_argument(state):
    """ "CANCELLED", as PS3.18 once misspelled it, is no state."""
    assert on_change(state, LOCK, "CANCELLED", LOCK) == 0x0115


def test_a_warning_is_no_failure():
    """The work item is in the state that was asked for."""
    assert [is_failure(status) for status in (0x0000, 0x0001, 0xB304, 0xB306, 0xC300, 0x0110)] == [False] * 4 + [
        True
    ] * 2
    assert all(len(words) <= 64 for words in WORDS.values())
