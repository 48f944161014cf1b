"""The split of a cohort into train, tune and test: drawn by patient, stratified, and frozen in a file with its hash."""

import csv
import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.cohorts import PARTS, Case, Cohort, CohortError, Part
from trainer.cohorts.case import linked_groups
from trainer.cohorts.tables import Table

SCHEMA = "cxr-train split 1"
COLUMNS = ("identifier", "patient", "part")
_DRAWN_PARTS: tuple[Part, ...] = ("train", "tune", "test")


def split(
    cohort: Cohort, finding: str, *, seed: int, fractions: tuple[float, float, float], keep_official: bool = True
) -> Cohort:
    """Draw the parts anew.

    Patients are drawn, with all their images and with the patients that share a picture with them. Those of a stratum
    (the finding present in any image, absent or unknown; the views; the sources) are put in an order that a hash of
    the seed and the patient makes, and dealt out by the fractions: each stratum comes within two patients of its share
    of each part, whatever the order of the cohort's table. No part is balanced: training may sample evenly, tune and
    test keep the prevalence that the cohort has.

    Parameters
    ----------
    cohort : its `apart` cases stay apart, and absent ones are drawn like the others
    finding : a label of the cohort
    seed : another seed, another split; the same seed, the same split, on any machine
    fractions : of (train, tune, test), at least 0, together 1
    keep_official : leave the test part as it is, so that figures stay comparable with others' on it; the other
        patients are dealt out to train and tune in the ratio of their fractions

    Raises
    ------
    CohortError
        The finding is none of the cohort's, the fractions are not what they must be, a case that may be used has no
        patient (it could get into two parts), no case may be used, or the test part to keep is empty.
    """
    if finding not in cohort.findings:
        raise CohortError(f"cohort {cohort.name}: expected one of {', '.join(cohort.findings)}, found {finding!r}")
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise CohortError(f"expected three fractions of train, tune and test that make 1 together, found {fractions}")
    rows = cohort.rows
    nameless = [case.identifier for case in rows if case.part != "apart" and not case.patient]
    if nameless:
        raise CohortError(
            f"cohort {cohort.name}: {len(nameless)} cases have no patient, {nameless[0]} first: what cannot be split "
            "by patient is not split"
        )
    groups = linked_groups(case for case in rows if case.patient)
    kept = {groups[case.patient] for case in rows if case.part == "test"} if keep_official else set()
    if keep_official and not kept:
        raise CohortError(f"cohort {cohort.name}: expected a test part to keep, found none")
    shares = (fractions[0], fractions[1], 0.0) if keep_official else fractions
    if not sum(shares):
        raise CohortError(f"the test part is kept: expected a fraction above 0 of train or tune, found {fractions}")
    members: dict[str, list[Case]] = defaultdict(list)
    for case in rows:
        if case.part != "apart" and groups[case.patient] not in kept:
            members[groups[case.patient]].append(case)
    if not members:
        raise CohortError(f"cohort {cohort.name}: expected cases to deal out, found that no case may be used")
    dealt = _deal(members, finding, seed, tuple(share / sum(shares) for share in shares))

    def drawn(cases: Iterable[Case]) -> tuple[Case, ...]:
        return tuple(
            replace(case, part=dealt[groups[case.patient]])
            if case.part != "apart" and groups[case.patient] in dealt
            else case
            for case in cases
        )

    says = ", ".join(f"{share:.3g} {part}" for part, share in zip(_DRAWN_PARTS, fractions, strict=True))
    test = " The test part is the cohort's own, untouched." if keep_official else ""
    rule = (
        f"Patients drawn with seed {seed} for {finding}, stratified by label, view and source: {says}.{test} "
        f"Before that: {cohort.split_rule}"
    )
    return replace(cohort, cases=drawn(cohort.cases), absent=drawn(cohort.absent), split_rule=rule)


def _deal(members: dict[str, list[Case]], finding: str, seed: int, shares: tuple[float, ...]) -> dict[str, Part]:
    """Deal groups out, stratum by stratum; within one each goes to the part that is furthest behind its share."""
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for group, cases in members.items():
        strata[_stratum(cases, finding)].append(group)
    dealt: dict[str, Part] = {}
    counts = [0] * len(shares)
    total = 0
    for stratum in sorted(strata):
        # The count runs on from stratum to stratum: many small ones would otherwise all round in favour of train.
        for group in sorted(strata[stratum], key=lambda group: _place(seed, group)):
            total += 1
            behind = [share * total - count for share, count in zip(shares, counts, strict=True)]
            index = max(range(len(shares)), key=lambda part: behind[part] if shares[part] else -math.inf)
            counts[index] += 1
            dealt[group] = _DRAWN_PARTS[index]
    return dealt


def _stratum(cases: list[Case], finding: str) -> tuple[str, ...]:
    labels = [case.labels.get(finding, math.nan) for case in cases]
    label = "present" if 1 in labels else "absent" if 0 in labels else "unknown"
    views = sorted({case.view for case in cases})
    sources = sorted({case.source for case in cases})
    return label, "+".join(views), "+".join(sources)


def _place(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"cxr-train split {seed} {group}".encode()).digest()


def described(cohort: Cohort) -> dict[str, Any]:
    """Return images, patients and labels of each part, for the record; absent images count."""
    parts: dict[str, Any] = {}
    for part in PARTS:
        cases = [case for case in cohort.rows if case.part == part]
        parts[part] = {"images": len(cases), "patients": len({case.patient for case in cases})}
        for finding in cohort.findings:
            found = Counter(_said(case.labels.get(finding, math.nan)) for case in cases)
            parts[part][finding] = {says: found[says] for says in ("present", "absent", "unknown")}
    return parts


def _said(label: float) -> str:
    return "unknown" if math.isnan(label) else "present" if label >= 0.5 else "absent"


def freeze(cohort: Cohort, path: Path, *, seed: int | None = None) -> str:
    """Write the parts as CSV (identifier, patient, part), what they are as JSON beside it; return the CSV's SHA-256.

    The JSON has the file's name with the ending ``.json``. The same cohort and parts make the same bytes.

    Raises
    ------
    CohortError
        Two cases have one identifier: the file could not tell them apart.
    """
    rows = sorted(cohort.rows, key=lambda case: case.identifier)
    for case, following in pairwise(rows):
        if case.identifier == following.identifier:
            raise CohortError(f"cohort {cohort.name}: two cases have the identifier {case.identifier}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((case.identifier, case.patient, case.part) for case in rows)
    data = text.getvalue().encode()
    digest = hashlib.sha256(data).hexdigest()
    record = {
        "schema": SCHEMA,
        "cohort": cohort.name,
        "title": cohort.title,
        "rule": cohort.split_rule,
        "seed": seed,
        "parts": described(cohort),
        "sha256": digest,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    record_of(path).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return digest


def record_of(path: Path) -> Path:
    """Return where the JSON of a frozen split lies."""
    return path.with_suffix(".json")


def frozen(cohort: Cohort, path: Path) -> Cohort:
    """Return the cohort with the parts of a frozen split.

    Raises
    ------
    CohortError
        A file is not there, the CSV is not the one that was frozen, it is of another cohort, it lacks a case of the
        cohort or has one that the cohort lacks, a case is of another patient, or a patient is in two parts.
    """
    record = _record(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CohortError(f"{path}: expected a frozen split, found none ({error.strerror})") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.get("sha256"):
        raise CohortError(
            f"{path}: expected the SHA-256 {record.get('sha256')} of {record_of(path).name}, found {digest}: "
            "the split was changed after it was frozen"
        )
    if record.get("cohort") != cohort.name:
        raise CohortError(f"{path}: expected a split of the cohort {cohort.name}, found one of {record.get('cohort')}")
    parts = _parts(path)
    for case in cohort.rows:
        found = parts.get(case.identifier)
        if found is None:
            raise CohortError(f"{path}: expected every case of the cohort {cohort.name}, {case.identifier} is missing")
        if found[0] != case.patient:
            raise CohortError(f"{path}: {case.identifier} is of another patient in the cohort than in the frozen split")
    if len(parts) != len(cohort.rows):
        missing = sorted(set(parts) - {case.identifier for case in cohort.rows})
        raise CohortError(f"{path}: {len(missing)} cases are missing from the cohort {cohort.name}, {missing[0]} first")

    def applied(cases: tuple[Case, ...]) -> tuple[Case, ...]:
        return tuple(replace(case, part=parts[case.identifier][1]) for case in cases)

    # The cohort refuses to be made where the file puts a patient into two parts.
    return replace(
        cohort,
        cases=applied(cohort.cases),
        absent=applied(cohort.absent),
        split_rule=str(record.get("rule", "")),
    )


def _record(path: Path) -> dict[str, Any]:
    place = record_of(path)
    try:
        record = json.loads(place.read_text("utf-8"))
    except OSError as error:
        raise CohortError(f"{place}: expected the record of a frozen split, found none ({error.strerror})") from error
    except ValueError as error:
        raise CohortError(f"{place}: expected the record of a frozen split as JSON, found {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise CohortError(f"{place}: expected the schema {SCHEMA!r}")
    return record


def _parts(path: Path) -> dict[str, tuple[str, Part]]:
    table = Table.of(path, COLUMNS)
    known: dict[str, Part] = {part: part for part in PARTS}
    parts: dict[str, tuple[str, Part]] = {}
    for line, cells in table.rows():
        identifier, patient, part = (cells[table.columns[name]] for name in COLUMNS)
        if part not in known:
            raise table.wrong(line, "part", part, f"one of {', '.join(PARTS)}")
        if identifier in parts:
            raise table.wrong(line, "identifier", identifier, "each case once")
        parts[identifier] = patient, known[part]
    return parts
