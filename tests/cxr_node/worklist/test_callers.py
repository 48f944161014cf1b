"""Who may query."""

import pytest

from cxr_node.settings import Caller
from cxr_node.worklist.callers import is_allowed

pytestmark = pytest.mark.requirement("SRS-WLT-012")


@pytest.mark.parametrize(
    ("ae_title", "hosts", "calling", "address", "expected"),
    [
        ("*", ("127.0.0.1",), "ANY", "127.0.0.1", True),
        ("*", ("127.0.0.1",), "ANY", "127.0.0.2", False),
        ("PACS", ("10.1.0.0/16",), "PACS ", "10.1.2.3", True),
        ("PACS", ("10.1.0.0/16",), "PACS", "10.2.2.3", False),
        ("PACS", ("*",), "OTHER", "10.1.2.3", False),
        ("PACS", ("*",), "PACS", "10.1.2.3", True),
        ("*", ("10.1.2.3",), "ANY", "::ffff:10.1.2.3", True),
        ("*", ("fd00::/8",), "ANY", "fd00::1", True),
        ("*", ("pacs.example",), "ANY", "10.1.2.3", False),
        ("*", ("127.0.0.1",), "ANY", "nonsense", False),
    ],
)
def test_a_caller_needs_both_title_and_address(ae_title, hosts, calling, address, expected):
    """An AE title is a claim, an address alone is a whole machine."""
    assert is_allowed((Caller(ae_title=ae_title, hosts=hosts),), calling, address) is expected


def test_nobody_is_allowed_by_an_empty_list():
    """Who is not named is not answered."""
    assert not is_allowed((), "ANY", "127.0.0.1")
