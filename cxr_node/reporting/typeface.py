"""The typeface of cards and pages: Bitstream Vera, which comes with reportlab. It draws Latin script and little else.

What it cannot draw is never drawn as boxes that look like a name: see `shown_name`.
"""

import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import reportlab
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName
from reportlab.pdfbase.ttfonts import TTFont

from cxr_node.reporting.context import text_of

_FOLDER = Path(reportlab.__file__).parent / "fonts"
REGULAR, BOLD = _FOLDER / "Vera.ttf", _FOLDER / "VeraBd.ttf"
NOT_DRAWN = "(in a script that cannot be drawn here; see the study)"

LONGEST = 300  # characters of a sentence; senders write what they like


@cache
def _drawn() -> frozenset[int]:
    known = [frozenset(TTFont(path.stem, str(path)).face.charToGlyph) for path in (REGULAR, BOLD)]
    return frozenset.intersection(*known)


def covers(text: str) -> bool:
    """Whether every character of the text can be drawn."""
    return all(ord(character) in _drawn() for character in text)


def drawable(text: str) -> str:
    """Return the text on one line, of bounded length, a question mark for each character that cannot be drawn."""
    composed = unicodedata.normalize("NFC", text[: LONGEST + 1])
    if len(composed) > LONGEST:
        composed = f"{composed[: LONGEST - 1]}\u2026"
    return "".join(character if covers(character) else "?" for character in " ".join(composed.split()))


def shown_name(header: Dataset) -> str:
    """Return the patient's name as it can be drawn: the alphabetic component group, else a note instead of a name."""
    value = text_of(header, "PatientName")
    if not str(value).strip("^= "):
        return "(no name)"
    name = value if isinstance(value, PersonName) else PersonName(str(value))
    groups = [unicodedata.normalize("NFC", group) for group in (name.alphabetic, name.ideographic, name.phonetic)]
    for group in groups:
        parts = [part.strip() for part in group.split("^")]
        text = ", ".join(part for part in (parts[0], " ".join(parts[1:3]).strip()) if part)
        if text and len(text) <= LONGEST and covers(text):
            return text
    return NOT_DRAWN


def shown_id(header: Dataset) -> str:
    """Return the Patient ID and its issuer as they can be drawn."""
    patient_id, issuer = (str(text_of(header, keyword)) for keyword in ("PatientID", "IssuerOfPatientID"))
    if not patient_id:
        return "(no Patient ID)"
    shown = f"{patient_id} ({issuer})" if issuer else patient_id
    return shown if len(shown) <= LONGEST and covers(shown) else NOT_DRAWN


def wrapped(text: str, length_of: Callable[[str], float], width: float) -> list[str]:
    """Break the text at spaces, and inside a word that is longer than a line, a UID in a reason, say."""
    lines: list[str] = []
    for word in text.split():
        left = word
        while length_of(left) > width and len(left) > 1:
            fits = next(
                count for count in range(len(left) - 1, 0, -1) if count == 1 or length_of(left[:count]) <= width
            )
            lines.append(left[:fits])
            left = left[fits:]
        joined = f"{lines[-1]} {left}" if lines else left
        if lines and length_of(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(left)
    return lines
