"""What came of a tried file, in words and as lines of a table."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cxr_node.worklist.feedback import csv_line
from cxr_node.worklist.web.drop.desk import Sending
from cxr_node.worklist.web.present import State, shown
from storage.drops import DONE, FAILED, REFUSED, DropFile

Outcome = Literal["flagged", "failed", "refused", "not_analysed", "not_flagged", "waiting"]
# In the order of the list when it is sorted by outcome: what wants an eye first.
STATES: dict[Outcome, State] = {
    "flagged": State("flagged", "▲", "Flagged", ""),
    "failed": State("failed", "✕", "Failed", ""),
    "refused": State("not-analysed", "⊘", "Refused", ""),
    "not_analysed": State("not-analysed", "⊘", "Not analysed", ""),
    "not_flagged": State("not-flagged", "–", "Not flagged", ""),
    "waiting": State("pending", "…", "Waiting", ""),
}
SORTS = {"dropped": "as dropped", "outcome": "by outcome", "name": "by name"}
_FACTS = ("class", "modality", "body_part", "view", "age", "size")
CSV_COLUMNS = (
    "file",
    "kind",
    "outcome",
    "reason",
    "attribute",
    "value",
    "finding",
    "model",
    "model_version",
    "probability",
    "threshold",
    "notes",
    "sent_to_worklist",
)


@dataclass(frozen=True)
class Finding:
    """What a model said. Numbers are there in profile research only."""

    finding: str
    model: str
    model_version: str
    flagged: bool
    probability: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Told:
    """A file and what came of it. `reason` says why it was not analysed, with the attribute at fault and its value."""

    id: int
    name: str
    size: int
    outcome: Outcome
    reason: str
    attribute: str
    value: str
    kind: str
    facts: dict[str, str]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    has_preview: bool
    sop_instance_uid: str
    sent: str
    sent_reason: str

    @property
    def state(self) -> State:
        """Mark and word."""
        return STATES[self.outcome]

    @property
    def what(self) -> str:
        """The file in a line: what it is and what it says of itself."""
        facts = [self.facts[name] for name in _FACTS if name in self.facts]
        return ", ".join([self.kind, *facts] if self.kind else facts)

    @property
    def can_be_sent(self) -> bool:
        return self.kind == "DICOM" and self.sent in ("", "refused")


def told(file: DropFile, sending: Sending) -> Told:
    """Return what there is to say; text of senders without signs that move or hide their neighbors."""
    result, exclusion = file.result, file.result.get("exclusion") or {}
    outcome: Outcome = "waiting"
    if file.state == DONE:
        outcome = result["outcome"]
    elif file.state in (REFUSED, FAILED):
        outcome = "refused" if file.state == REFUSED else "failed"
    known = file.state == DONE
    reason = str(exclusion.get("message") or "") if known else file.reason
    if known and exclusion.get("reason") == "unreadable-dataset":
        reason = f"the file is broken: {reason}"
    return Told(
        id=file.id,
        name=shown(file.name) or "(no name)",
        size=file.size,
        outcome=outcome,
        reason=shown(reason),
        attribute=shown(exclusion.get("attribute") or "") if known else "",
        value=shown(exclusion.get("value") or "") if known else "",
        kind=str(result.get("kind") or ""),
        facts={name: shown(value) for name, value in (result.get("facts") or {}).items()},
        findings=tuple(Finding(**item) for item in result.get("findings") or ()) if known else (),
        notes=tuple(result.get("notes") or ()) if known else (),
        has_preview=bool(result.get("has_preview")),
        sop_instance_uid=shown(result.get("sop_instance_uid") or ""),
        sent=sending.state,
        sent_reason=shown(sending.reason),
    )


def ordered(files: Sequence[Told], sort: str) -> list[Told]:
    """Return them as dropped, by outcome, or by name."""
    if sort == "outcome":
        places = {outcome: place for place, outcome in enumerate(STATES)}
        return sorted(files, key=lambda file: (places[file.outcome], file.id))
    return sorted(files, key=lambda file: (file.name.casefold(), file.id)) if sort == "name" else list(files)


def totals(files: Sequence[Told]) -> list[tuple[State, int]]:
    """Return how many there are of each outcome that occurs."""
    counts = Counter(file.outcome for file in files)
    return [(state, counts[outcome]) for outcome, state in STATES.items() if counts[outcome]]


def csv_lines(files: Sequence[Told]) -> Iterator[str]:
    """Yield a line for each finding of each file, one for a file without; no cell is run by a spreadsheet."""
    yield csv_line(CSV_COLUMNS)
    for file in files:
        for finding in file.findings or (None,):
            yield csv_line(_cells(file, finding))


def _cells(file: Told, finding: Finding | None) -> Sequence[Any]:
    scored: tuple[Any, ...] = ("", "", "", "", "")
    outcome: str = file.outcome
    if finding is not None:
        scored = (
            finding.finding,
            finding.model,
            finding.model_version,
            "" if finding.probability is None else f"{finding.probability:.6f}",
            "" if finding.threshold is None else f"{finding.threshold:.6f}",
        )
        outcome = "flagged" if finding.flagged else "not_flagged"
    return (
        file.name,
        file.kind,
        outcome,
        file.reason,
        file.attribute,
        file.value,
        *scored,
        "; ".join(file.notes),
        file.sent,
    )
