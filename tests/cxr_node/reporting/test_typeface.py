"""Names on cards and pages."""

import pytest
from pydicom.dataset import Dataset

from cxr_node.reporting.typeface import LONGEST, NOT_DRAWN, covers, drawable, shown_id, shown_name, wrapped

pytestmark = pytest.mark.requirement("SRS-RPT-104")


def _header(**attributes) -> Dataset:
    header = Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("DOE^JANE", "DOE, JANE"),
        ("M\u00fcller^J\u00f6rg^Karl^Dr.", "M\u00fcller, J\u00f6rg Karl"),
        ("Mu\u0308ller^Jo\u0308rg", "M\u00fcller, J\u00f6rg"),
        ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046", "Yamada, Tarou"),
        ("=\u5c71\u7530^\u592a\u90ce", NOT_DRAWN),
        ("\ud64d^\uae38\ub3d9", NOT_DRAWN),
        ("\u041b\u044e\u043a\u0441\u0435\u043c\u0431\u0443\u0440\u0433", NOT_DRAWN),
        ("", "(no name)"),
        ("^", "(no name)"),
    ],
)
def test_a_name_is_drawn_in_full_or_not_at_all(name, shown):
    """Boxes in place of letters make two patients look alike."""
    assert shown_name(_header(PatientName=name)) == shown


def test_an_id_is_drawn_with_its_issuer():
    """What tells patients apart where the name cannot be drawn."""
    assert shown_id(_header(PatientID="P1", IssuerOfPatientID="HOSP")) == "P1 (HOSP)"
    assert shown_id(_header(PatientID="P1")) == "P1"
    assert shown_id(_header()) == "(no Patient ID)"
    assert shown_id(_header(PatientID="\u60a3\u8005")) == NOT_DRAWN


def test_other_text_shows_where_a_character_is_missing():
    """A question mark is honest, and line ends are none of the sender's business."""
    assert drawable("K\u00f6ln\n\u5c71  x") == "K\u00f6ln ? x"
    assert covers(NOT_DRAWN)
    assert drawable("x" * 10_000) == "x" * (LONGEST - 1) + "\u2026"
    assert drawable("x" * LONGEST) == "x" * LONGEST


def test_text_breaks_at_spaces_and_inside_long_words():
    """Nothing runs off the card, whatever a sender wrote."""
    lines = wrapped("ab cd efghijkl m", len, 5)
    assert lines == ["ab cd", "efghi", "jkl m"]
    assert wrapped("", len, 5) == []
    assert wrapped("abc", lambda text: 9.0 * len(text), 5) == ["a", "b", "c"]
