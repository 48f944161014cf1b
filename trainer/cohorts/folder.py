"""A site's own pictures, PNG, JPEG or DICOM: a table ``cases.csv``, or a folder for each class."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_node.errors import UnreadableDataset
from cxr_node.findings import FINDINGS
from trainer.cohorts.case import Case, Cohort, CohortError, Part, counted, is_dicom
from trainer.cohorts.dicom import described
from trainer.cohorts.nih_table import LABELS, drawn
from trainer.cohorts.tables import Table, years

TABLE = "cases.csv"
KNOWN_FINDINGS = tuple(dict.fromkeys((*LABELS, *FINDINGS)))
PICTURES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
# `val` is what most sets call the part to tune on.
_PARTS: dict[str, Part] = {"train": "train", "tune": "tune", "val": "tune", "test": "test", "apart": "apart"}
_OWN_COLUMNS = ("path", "patient", "split", "age", "sex", "view")
_SALT = "cxr-node folder 1"
_DRAWN = (0.15, 0.15)

GIVEN_RULE = "Parts as the site gave them."
DRAWN_RULE = (
    "The site gave no parts: patients are split by a hash of their name, "
    f"{1 - sum(_DRAWN):.0%} train, {_DRAWN[0]:.0%} tune, {_DRAWN[1]:.0%} test."
)
_TRUTH = {"1": 1.0, "0": 0.0, "": math.nan, "1.0": 1.0, "0.0": 0.0}


def folder(data: Path) -> Cohort:
    """Read ``cases.csv`` where it is there, otherwise the folders.

    The table has the columns ``path`` (inside the folder, with ``/``) and ``patient``, and may have ``split`` (train,
    tune, test or apart), ``age`` (years), ``sex`` (F, M) and ``view`` (PA, AP). Every other column that is a finding's
    name is a label: 1 present, 0 absent, empty unknown. A DICOM file's header tells what the table does not.

    Folders are ``{train,tune,test}/CLASS/…`` or ``CLASS/…``, at any depth below the class; the class ``normal`` is the
    absence of every other, a class is a finding's name, and other folders are not read. The patient is the file's
    name up to the first ``_``, for a DICOM file the pseudonym that `dicom.described` makes.

    Raises
    ------
    CohortError
        There is neither a table nor a class, a path leads out of the folder, a cell cannot be read (the message
        names file, line, column, what was found and what was expected), or a patient is in two parts.
    """
    if not data.is_dir():
        raise CohortError(f"{data}: expected a folder, found none")
    table = data / TABLE
    cohort = _from_table(data, table) if table.is_file() else _from_folders(data)
    if not cohort.rows:
        raise CohortError(f"{data}: expected pictures ({', '.join(PICTURES)}), found none")
    return cohort


def _from_table(data: Path, path: Path) -> Cohort:
    table = Table.of(path, ("path", "patient"))
    findings = tuple(name for name in table.columns if name in KNOWN_FINDINGS)
    if not findings:
        raise CohortError(
            f"{path}, line 1: expected a column of labels named as a finding ({', '.join(KNOWN_FINDINGS)}), "
            f"found {', '.join(table.columns)}"
        )
    given = "split" in table.columns
    cases: list[Case] = []
    absent: list[Case] = []
    seen: dict[str, int] = {}
    broken: list[str] = []
    root = data.resolve()
    for line, row in table.records():
        place = _inside(root, data / row["path"]) if row["path"] else None
        if place is None:
            raise table.wrong(line, "path", row["path"], f"a path inside {data}")
        if seen.setdefault(row["path"], line) != line:
            raise table.wrong(line, "path", row["path"], f"a picture that line {seen[row['path']]} does not have")
        if not row["patient"] and not row["path"].lower().endswith((".dcm", ".dicom")):
            raise table.wrong(line, "patient", "", "a name for the patient: pictures are split by it")
        case = Case(
            identifier=row["path"],
            path=data / row["path"],
            labels={finding: _label(table, line, finding, row[finding]) for finding in findings},
            patient=row["patient"],
            part=_part(table, line, row["split"]) if given else "train",
            age=_age(table, line, row.get("age", "")),
            sex=_choice(table, line, "sex", row.get("sex", ""), ("F", "M")),
            view=_choice(table, line, "view", row.get("view", ""), ("PA", "AP")),
            source="folder",
        )
        is_there = place.is_file()
        (cases if is_there else absent).append(_completed(case, broken) if is_there else case)
    ignored = [name for name in table.columns if name and name not in (*_OWN_COLUMNS, *findings)]
    return _cohort(
        cases,
        absent,
        findings,
        given=given,
        problems=(
            *counted([case.identifier for case in absent], f"listed in {TABLE}, not found"),
            *counted(ignored, f"column of {TABLE}, the name of no finding: not read"),
            *counted(broken, "the header does not read: what the table does not tell is unknown"),
        ),
    )


def _from_folders(data: Path) -> Cohort:
    found = list(_classes(data))
    if not found:
        raise CohortError(
            f"{data}: expected {TABLE}, or folders named normal and as a finding ({', '.join(KNOWN_FINDINGS)}), "
            "here or in train, tune and test; found none"
        )
    findings = tuple(dict.fromkeys(a_class.name for a_class in found if a_class.name != "normal"))
    if not findings:
        raise CohortError(f"{data}: expected a folder named as a finding beside {found[0].path.name}, found none")
    cases: list[Case] = []
    broken: list[str] = []
    root = data.resolve()
    for a_class in found:
        for path in sorted(a_class.path.rglob("*")):
            if path.suffix.lower() not in PICTURES or path.name.startswith(".") or not path.is_file():
                continue
            if _inside(root, path) is None:
                raise CohortError(f"{path}: expected a picture inside {data}, found a link that leads out of it")
            case = Case(
                identifier=path.relative_to(data).as_posix(),
                path=path,
                # Another class's folder says nothing of this finding, unless it says that there is none at all.
                labels={
                    finding: 1.0 if finding == a_class.name else 0.0 if a_class.name == "normal" else math.nan
                    for finding in findings
                },
                patient="" if is_dicom(path) else path.stem.partition("_")[0],
                part=a_class.part or "train",
                source="folder",
            )
            cases.append(_completed(case, broken))
    parts = {a_class.part for a_class in found}
    if None in parts and len(parts) > 1:
        raise CohortError(f"{data}: expected every class in train, tune or test, or none, found both")
    return _cohort(
        cases,
        [],
        findings,
        given=None not in parts,
        problems=counted(broken, "the header does not read: age, sex and view are unknown"),
    )


@dataclass(frozen=True)
class _Class:
    path: Path
    name: str
    part: Part | None


def _classes(data: Path) -> Iterator[_Class]:
    for path in sorted(data.iterdir()):
        if not path.is_dir():
            continue
        if (part := _PARTS.get(path.name.lower())) is not None:
            yield from (
                _Class(below, name, part)
                for below in sorted(path.iterdir())
                if below.is_dir() and (name := _class_name(below.name)) is not None
            )
        elif (name := _class_name(path.name)) is not None:
            yield _Class(path, name, None)


def _class_name(text: str) -> str | None:
    name = text.lower().replace(" ", "_")
    return name if name in ("normal", *KNOWN_FINDINGS) else None


def _cohort(
    cases: list[Case], absent: list[Case], findings: tuple[str, ...], *, given: bool, problems: tuple[str, ...]
) -> Cohort:
    return Cohort(
        name="folder",
        title="A site's own cases",
        cases=tuple(cases if given else map(_drawn_part, cases)),
        absent=tuple(absent if given else map(_drawn_part, absent)),
        split_rule=GIVEN_RULE if given else DRAWN_RULE,
        problems=problems,
        findings=findings,
    )


def _drawn_part(case: Case) -> Case:
    share = drawn(_SALT, case.patient)
    tune, test = _DRAWN
    return replace(case, part="tune" if share < tune else "test" if share < tune + test else "train")


def _completed(case: Case, broken: list[str]) -> Case:
    """Return the case with what its DICOM header tells and the table does not; a picture is returned as it is."""
    if not is_dicom(case.path):
        return case
    try:
        header = described(case.path)
    except (UnreadableDataset, OSError):
        broken.append(case.identifier)
        return case if case.patient else replace(case, patient=f"unknown {case.identifier}")
    return replace(
        case,
        patient=case.patient or header.patient or f"unknown {case.identifier}",
        age=header.age if math.isnan(case.age) else case.age,
        sex=case.sex or header.sex,
        view=case.view or header.view,
        original_size=header.original_size,
        pixel_spacing_mm=header.pixel_spacing_mm,
    )


def _inside(root: Path, path: Path) -> Path | None:
    """Return the real path, None where it leaves the folder, by ``..``, as an absolute path or through a link."""
    try:
        real = path.resolve()
    except (OSError, ValueError, RuntimeError):  # a null byte, or links in a circle
        return None
    return real if real.is_relative_to(root) and real != root else None


def _label(table: Table, line: int, finding: str, text: str) -> float:
    if text not in _TRUTH:
        raise table.wrong(line, finding, text, "1, 0 or nothing")
    return _TRUTH[text]


def _part(table: Table, line: int, text: str) -> Part:
    part = _PARTS.get(text.lower())
    if part is None:
        raise table.wrong(line, "split", text, f"one of {', '.join(_PARTS)}")
    return part


def _age(table: Table, line: int, text: str) -> float:
    age = years(text)
    if text and not age >= 0:
        raise table.wrong(line, "age", text, "a number of years, or nothing")
    return age


def _choice(table: Table, line: int, column: str, text: str, known: tuple[str, ...]) -> str:
    if text and text.upper() not in known:
        raise table.wrong(line, column, text, f"{', '.join(known)} or nothing")
    return text.upper()
