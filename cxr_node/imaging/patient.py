"""Whose images these are: whether several headers can be of one patient."""

from collections.abc import Iterable

from pydicom.dataset import Dataset


def are_of_one_patient(headers: Iterable[Dataset]) -> bool:
    """Whether nothing in the headers says that they are of more than one patient.

    Patient ID (0010,0020) decides, with its issuer (0010,0021) where several name one: the same ID of two issuers is
    two patients. A header without an ID counts as the same patient only with the same name (0010,0010), and no other
    birth date (0010,0030). Letter case counts and nothing is reordered; spaces around a value, and empty components at
    the end of a name, say nothing (PS3.5 6.2, 6.2.1).
    """
    found = [
        (
            _text(header, "PatientID"),
            _text(header, "IssuerOfPatientID"),
            _name(header),
            _text(header, "PatientBirthDate"),
        )
        for header in headers
    ]
    ids, issuers = ({item[place] for item in found if item[place]} for place in (0, 1))
    if len(ids) > 1 or len(issuers) > 1:
        return False
    if all(item[0] for item in found):
        return True
    return len({item[2] for item in found}) <= 1 and len({item[3] for item in found if item[3]}) <= 1


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip(" \0")


def _name(header: Dataset) -> str:
    """Return the name without what is empty at the end of a group, or of the groups."""
    return "=".join(group.rstrip("^ ").strip() for group in _text(header, "PatientName").split("=")).rstrip("=")
