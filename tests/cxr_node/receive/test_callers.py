"""Who may send."""

import pytest

from cxr_node.errors import SettingsError
from cxr_node.receive.callers import CallerList
from cxr_node.settings import Caller

pytestmark = pytest.mark.requirement("SRS-RCV-004")


@pytest.mark.parametrize(
    ("ae_title", "hosts", "calling", "address", "allowed"),
    [
        ("PACS", ("10.1.0.5",), "PACS", "10.1.0.5", True),
        ("PACS", ("10.1.0.5",), "PACS ", "10.1.0.5", True),
        ("PACS", ("10.1.0.5",), "pacs", "10.1.0.5", False),
        ("PACS", ("10.1.0.5",), "PACS", "10.1.0.6", False),
        ("PACS", ("10.1.0.0/16",), "PACS", "10.1.255.255", True),
        ("PACS", ("10.1.0.0/16",), "PACS", "10.2.0.1", False),
        ("PACS", ("10.1.7.9/16",), "PACS", "10.1.0.1", True),
        ("*", ("10.1.0.0/16",), "ANYTHING", "10.1.0.1", True),
        ("PACS", ("*",), "PACS", "203.0.113.9", True),
        ("PACS", (), "PACS", "127.0.0.1", False),
        ("*", ("10.0.0.0/8",), "PACS", "::ffff:10.1.2.3", True),
        ("*", ("fe80::/10",), "PACS", "fe80::1%eth0", True),
        ("*", ("10.0.0.0/8",), "PACS", "fe80::1", False),
        ("*", ("10.0.0.0/8",), "PACS", "no address", False),
    ],
)
def test_title_and_address_must_both_be_listed(ae_title, hosts, calling, address, allowed):
    """An AE title is a name anybody can use; an address without a title tells no device."""
    assert CallerList.of([Caller(ae_title=ae_title, hosts=hosts)]).allows(calling, address) is allowed


def test_one_entry_must_name_both():
    """The address of one device with the title of another is neither."""
    callers = CallerList.of([Caller(ae_title="A", hosts=("10.0.0.1",)), Caller(ae_title="B", hosts=("10.0.0.2",))])
    assert callers.allows("A", "10.0.0.1")
    assert not callers.allows("A", "10.0.0.2")


def test_a_bad_address_is_told_at_the_start():
    """Not when the first sender is refused."""
    with pytest.raises(SettingsError, match=r"caller\.hosts of PACS"):
        CallerList.of([Caller(ae_title="PACS", hosts=("10.1.0.0/99",))])
