"""Who may query."""

import pytest

from cxr_node.access import refusal_of
from cxr_node.errors import SettingsError
from cxr_node.settings import Caller
from cxr_node.worklist.callers import rows_of

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
    rows = rows_of((Caller(ae_title=ae_title, hosts=hosts),))
    assert (refusal_of(rows, calling, address, None) == "") is expected


def test_nobody_is_allowed_by_an_empty_list():
    """Who is not named is not answered."""
    assert refusal_of(rows_of(()), "ANY", "127.0.0.1", None) == "calling_ae_title"


@pytest.mark.requirement("SRS-TLS-013")
def test_what_can_be_no_certificate_is_told_at_the_start():
    """Left out, its name would be open to everybody whom another row lets in."""
    with pytest.raises(SettingsError, match=r"caller\.certificate of RIS: .*64 hexadecimal digits"):
        rows_of((Caller(ae_title="RIS", certificate="ab" * 20),))
