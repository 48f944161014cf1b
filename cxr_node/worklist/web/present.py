"""The words of the page: what a study's row says. Case level, no probability, never that a disease is absent."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from urllib.parse import quote
from zoneinfo import ZoneInfo

from cxr_node.worklist.listing import Entry
from storage.deliveries import (
    COMMITTED,
    DELIVERED,
    FAILED,
    FEEDBACK,
    PROOF_ASKED,
    PROOF_UNAVAILABLE,
    SCHEDULED,
    SKIPPED,
    SUPERSEDED,
    Delivery,
)
from storage.studies import ANALYSED, NOT_ANALYSED, PENDING, PatientContext
from storage.studies import FAILED as STUDY_FAILED
from storage.work_items import IN_PROGRESS

BANNER = "Research prototype, not cleared for clinical use. Not for diagnosis. Runs beside the normal order of reading."
_SCRIPT_SCHEMES = ("javascript", "data", "vbscript", "file", "filesystem", "blob", "about", "view-source")
_PLACEHOLDER = re.compile(r"\{(study_instance_uid|patient_id|accession_number)\}")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DELIVERY_WORDS = {
    SCHEDULED: "waiting",
    DELIVERED: "delivered",
    COMMITTED: "delivered, committed",
    FAILED: "failed",
    SUPERSEDED: "superseded",
    SKIPPED: "not sent",
}
_VERDICTS = {
    "agree": ("agreed", "✓", "Agreed"),
    "disagree": ("disagreed", "≠", "Disagreed"),
    "unsure": ("unsure", "?", "Not sure"),
}
_PROOF_WORDS = {PROOF_ASKED: "proof asked for", PROOF_UNAVAILABLE: "not proved"}
_STATUS_WORDS = {
    PENDING: "Pending",
    ANALYSED: "Analysed",
    NOT_ANALYSED: "Not analysed",
    STUDY_FAILED: "Failed",
}


@dataclass(frozen=True)
class State:
    """What the AI says of a study: `mark` is a shape, so that no state is told by color alone."""

    name: str  # css class: pending, flagged, not-flagged, not-analysed, failed
    mark: str
    label: str
    detail: str


@dataclass(frozen=True)
class Instant:
    """A time twice: for machines, and in the site's zone for people."""

    iso: str
    text: str


@dataclass(frozen=True)
class DeliveryRow:
    """A result object on its way to a destination."""

    destination: str
    object: str
    revision: int
    name: str  # css class
    label: str
    reason: str
    attempts: int
    at: Instant


@dataclass(frozen=True)
class Sending:
    """Objects of a study that stand alike at one destination."""

    destination: str
    objects: str  # "SR", or "SR, SEG"
    name: str  # css class
    label: str
    reason: str


@dataclass(frozen=True)
class ReaderState:
    """What people did with the study: `mark` is a shape, as in `State`."""

    name: str  # css class: new, opened, agreed, disagreed, unsure
    mark: str
    label: str
    detail: str


@dataclass(frozen=True)
class Row:
    """A line of the list."""

    uid: str
    href: str
    viewer: str
    priority: str
    ordered: str
    priority_reason: str
    waited: str
    left: str
    overdue: bool
    state: State
    names: tuple[str, ...]
    patient_id: str
    accession_number: str
    age: str
    sex: str
    view: str
    modality: str
    received: Instant
    due: Instant  # when it has waited for the maximum
    models: tuple[str, ...]
    deliveries: tuple[DeliveryRow, ...]
    sent: tuple[Sending, ...]
    reader: ReaderState


def row(entry: Entry, zone: ZoneInfo, viewer_url: str, now: datetime) -> Row:
    """Return the line of a study."""
    study, context = entry.study, entry.study.context
    return Row(
        uid=shown(study.study_instance_uid),
        href="/studies/" + quote(study.study_instance_uid, safe=""),
        viewer=viewer_link(viewer_url, study.study_instance_uid, context.patient_id, context.accession_number),
        priority=str(entry.effective),
        ordered=str(entry.ordered),
        priority_reason=priority_reason(entry),
        waited=duration(entry.waited),
        left=f"{duration(-entry.left)} past max wait" if entry.overdue else f"max wait in {duration(entry.left)}",
        overdue=entry.overdue,
        state=state(entry),
        names=names(context.patient_name),
        patient_id=shown(context.patient_id),
        accession_number=shown(context.accession_number),
        age=age(context, study.first_received_at),
        sex=shown(context.sex),
        view=shown(context.view),
        modality=shown(context.modality),
        received=instant(study.first_received_at, zone, now),
        due=instant(now + entry.left, zone, now),
        models=tuple(
            sorted(
                {f"{shown(score['model'])} {shown(score['model_version'])}" for score in entry.of_outcome("findings")}
            )
        ),
        deliveries=tuple(delivery(item, zone, now) for item in entry.deliveries),
        sent=sendings(entry.deliveries, zone, now),
        reader=reader_state(entry),
    )


def state(entry: Entry) -> State:
    """Return what the AI says. A flagged study stays flagged while a later image waits, or when that one fails."""
    study = entry.study
    if study.flagged:
        flagged = sorted({shown(score["finding"]) for score in entry.of_outcome("findings") if score["flagged"]})
        details = [f"suspected {finding}" for finding in flagged]
        if study.status == STUDY_FAILED:
            details.append(f"a later image failed: {shown(entry.failure) or 'analysis was given up'}")
        elif study.status == PENDING:
            details.append("a later image is pending")
        return State("flagged", "▲", "Flagged", ", ".join(details))
    if study.status == ANALYSED:
        return State("not-flagged", "–", "Not flagged", "")
    if study.status == NOT_ANALYSED:
        reasons = dict.fromkeys(shown(item["message"] or item["reason"]) for item in entry.of_outcome("exclusions"))
        return State("not-analysed", "⊘", "Not analysed", "; ".join(reasons) or "the study holds no image")
    if study.status == STUDY_FAILED:
        return State("failed", "✕", "Failed", shown(entry.failure) or "analysis was given up")
    return State("pending", "…", "Pending", "")


def priority_reason(entry: Entry) -> str:
    """Return where the effective priority comes from, and that a study rose because it waited."""
    if entry.ai is not None and entry.effective != entry.ordered:
        reason = f"raised by AI from {entry.ordered}"
    elif entry.effective != entry.ordered:
        reason = "kept from an earlier revision; never lowered"
    elif entry.study.ordered_reason:
        reason = f"as ordered ({shown(entry.study.ordered_reason)})"
    elif entry.study.ordered_priority.strip():
        reason = "as ordered"
    else:
        reason = "no priority ordered"
    return f"{reason}; past maximum wait" if entry.overdue else reason


def delivery(item: Delivery, zone: ZoneInfo, now: datetime) -> DeliveryRow:
    """Return a delivery in words."""
    label = _DELIVERY_WORDS.get(item.state, item.state)
    if item.state == COMMITTED and item.proof_method == "query":
        label = "delivered, read back"
    if item.state == DELIVERED and item.proof in _PROOF_WORDS:
        label += f", {_PROOF_WORDS[item.proof]}"
    if item.state == SCHEDULED and item.attempts:
        label = f"waiting after {item.attempts} {'try' if item.attempts == 1 else 'tries'}"
    return DeliveryRow(
        destination=shown(item.destination),
        object=object_word(item.kind),
        revision=item.revision,
        name=item.state.lower(),
        label=label,
        reason=shown(item.reason or (item.proof_reason if item.proof == PROOF_UNAVAILABLE else "")),
        attempts=item.attempts,
        at=instant(item.delivered_at or item.updated_at, zone, now),
    )


def object_word(kind: str) -> str:
    """Return what is sent in a word: SR, SEG, SC …; the number in the kind of a feedback says nothing to a reader."""
    return FEEDBACK if kind.startswith(f"{FEEDBACK}:") else kind.upper()


def sendings(deliveries: Iterable[Delivery], zone: ZoneInfo, now: datetime) -> tuple[Sending, ...]:
    """Return how each destination stands, objects that stand alike in one line; the reason of what went well is left
    out."""
    objects: dict[tuple[str, str, str, str], list[str]] = {}
    for item in deliveries:
        line = delivery(item, zone, now)
        reason = line.reason if line.name in ("scheduled", "failed") else ""
        objects.setdefault((line.destination, line.name, line.label, reason), []).append(line.object)
    return tuple(
        Sending(destination, ", ".join(dict.fromkeys(kinds)), name, label, reason)
        for (destination, name, label, reason), kinds in objects.items()
    )


def reader_state(entry: Entry) -> ReaderState:
    """Return what readers did: a verdict on the result that stands, else whether anybody looked."""
    study, reading = entry.study, entry.reading
    is_held = reading is not None and reading.state == IN_PROGRESS
    detail = f"being read by {shown(reading.performer)}" if reading is not None and is_held else ""
    if study.verdict in _VERDICTS:
        return ReaderState(*_VERDICTS[study.verdict], detail)
    if study.opened_at is not None:
        return ReaderState("opened", "◐", "Opened", detail or f"by {shown(study.opened_by)}")
    return ReaderState("new", "○", "New", detail)


def status_word(status: str) -> str:
    """Return a result's status in words."""
    return _STATUS_WORDS.get(status, status)


def names(patient_name: str) -> tuple[str, ...]:
    """Return the component groups of a person name, family name first; one empty name where there is none."""
    groups = []
    for place, group in enumerate(patient_name.split("=")):
        family, _, rest = group.partition("^")
        given = " ".join(part.strip() for part in rest.split("^") if part.strip())
        comma = "," if place == 0 and family.strip() and given else ""  # none in the ideographic and phonetic groups
        name = f"{family.strip()}{comma} {given}".strip()
        if name:
            groups.append(shown(name))
    return tuple(groups) or ("",)


def age(context: PatientContext, at: datetime) -> str:
    """Return the age of (0010,1010), else that by birth date; empty when neither can be read."""
    value = context.age.strip()
    if len(value) == 4 and value[:3].isdigit() and value[3] in "DWMY":
        return f"{int(value[:3])} {value[3].lower()}"
    try:
        born = date(int(context.birth_date[:4]), int(context.birth_date[4:6]), int(context.birth_date[6:8]))
    except ValueError:
        return shown(value)
    years = at.year - born.year - ((at.month, at.day) < (born.month, born.day))
    return f"{years} y" if 0 <= years < 150 else ""


def duration(time: timedelta) -> str:
    """Return a time span in minutes, from two hours on in hours and minutes, from two days on in days and hours."""
    minutes = max(0, int(time.total_seconds() // 60))
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 2 * 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"


def instant(at: datetime, zone: ZoneInfo, now: datetime) -> Instant:
    """Return a time; its date only where it is not today."""
    local = at.astimezone(zone)
    is_today = local.date() == now.astimezone(zone).date()
    return Instant(at.isoformat(), local.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M"))


def viewer_link(viewer_url: str, study_instance_uid: str, patient_id: str = "", accession_number: str = "") -> str:
    """Return the link to the site's viewer, empty without one; a scheme that runs code is no link.

    What is filled in is a sender's text: percent-encoded, it stays one value wherever the template puts it.
    """
    # A browser drops white space and control characters before it looks for the scheme.
    template = "".join(sign for sign in viewer_url if sign > " " and sign != "\x7f")
    if not template or template.partition(":")[0].lower() in _SCRIPT_SCHEMES:
        return ""
    values = {"study_instance_uid": study_instance_uid, "patient_id": patient_id, "accession_number": accession_number}
    # In one pass: a value that looks like a placeholder is a value.
    return _PLACEHOLDER.sub(lambda found: quote(values[found[1]], safe=""), template)


def shown(text: str) -> str:
    """Return text of a sender without what could move or hide its neighbors: control characters, bidi overrides."""
    return "".join("�" if unicodedata.category(sign) in ("Cc", "Cs") or sign in _BIDI else sign for sign in text)
