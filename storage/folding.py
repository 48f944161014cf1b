"""Text as it is searched for: without case, accents and width, so that `muller` finds `MÜLLER^Jürgen`."""

import unicodedata

LONGEST_WORDS = 200  # of a query; what is kept of a name. An index of PostgreSQL takes 2,700 bytes a row
LONGEST_CODE = 64

# Letters that Unicode does not take apart and people write without their mark.
_PLAIN = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ħ": "h"})
_BETWEEN = "^=,\\"  # components and groups of a person name, values


def fold(text: str, longest: int = LONGEST_WORDS) -> str:
    """Return the words of a text with one space between them.

    Person names lose the separators of components and groups (`^`, `=`), so each component is a word, in every script.
    """
    apart = unicodedata.normalize("NFKD", text[: 4 * longest]).casefold().translate(_PLAIN)
    plain = "".join(
        " " if sign in _BETWEEN or unicodedata.category(sign) == "Cc" else sign
        for sign in apart
        if unicodedata.category(sign) not in ("Mn", "Cf", "Cs")
    )
    return " ".join(plain.split())[:longest].rstrip()


def searched(patient_name: str, patient_id: str, accession_number: str) -> str:
    """Return what a study is found by; the name first, so that it also sorts."""
    return kept(patient_name) + kept(patient_id, LONGEST_CODE) + kept(accession_number, LONGEST_CODE)


def kept(text: str, longest: int = LONGEST_WORDS) -> str:
    """Return the text folded, closed by a space where there is any: such pieces are put together as they are."""
    folded = fold(text, longest)
    return f"{folded} " if folded else ""
