"""References in messages of peers, some of them broken."""

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from cxr_node.imaging.references import Reference, references_in, uid_in

pytestmark = pytest.mark.requirement("SRS-RCV-104")


def item(sop_class_uid="1.2", sop_instance_uid="2.25.7", reason=None):
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    if reason is not None:
        made.FailureReason = reason
    return made


def holding(*items):
    made = Dataset()
    made.ReferencedSOPSequence = list(items)
    return made


def test_each_item_is_a_reference_with_its_reason():
    found = references_in(holding(item(), item("1.3", "2.25.8", 0x0112)), "ReferencedSOPSequence")
    assert found == [Reference("1.2", "2.25.7"), Reference("1.3", "2.25.8", 0x0112)]


def test_an_absent_sequence_refers_to_nothing():
    """A report of success holds no list of failures, and the other way round."""
    assert references_in(Dataset(), "FailedSOPSequence") == []


@pytest.mark.parametrize(
    "broken",
    [item(sop_class_uid=""), item(sop_instance_uid="DOE^JANE"), Dataset()],
    ids=["no class", "no UID", "empty"],
)
def test_an_item_that_names_no_instance_spoils_the_list(broken):
    """Half a list would look like a promise about the rest."""
    assert references_in(holding(item(), broken), "ReferencedSOPSequence") is None


def test_another_type_in_the_place_of_a_sequence_is_no_list():
    made = Dataset()
    made.add(DataElement("ReferencedSOPSequence", "LO", "DOE^JANE"))
    assert references_in(made, "ReferencedSOPSequence") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2.25.7", "2.25.7"),
        ("2.25.7 ", "2.25.7"),
        (["2.25.7", "2.25.8"], ""),
        ("", ""),
        ("DOE^JANE", ""),
        ("1" * 65, ""),
    ],
)
def test_a_uid_is_digits_and_dots_of_one_value(value, expected):
    """Some senders pad with a space where NUL is asked for."""
    made = Dataset()
    made.add(DataElement("TransactionUID", "UI", value))
    assert uid_in(made, "TransactionUID") == expected
    assert uid_in(Dataset(), "TransactionUID") == ""
