"""What is asked of a source, and what it answers: values, the same for C-FIND and QIDO-RS."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cxr_node.errors import SettingsError

_UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64


@dataclass(frozen=True)
class Query:
    """Which studies. Days are both included; no modality means any."""

    first: date
    last: date
    modalities: tuple[str, ...] = ()
    patient_id: str = ""

    def days(self) -> Iterator[date]:
        """Yield the days, one query each: many archives cut off an answer after some hundreds of studies."""
        for number in range((self.last - self.first).days + 1):
            yield self.first + timedelta(days=number)

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of it."""
        return {
            "dates": f"{self.first:%Y%m%d}-{self.last:%Y%m%d}",
            "modalities": list(self.modalities),
            "patient_id": self.patient_id,
        }


@dataclass(frozen=True)
class Found:
    """A study that the source has; `expected` is its number of instances, 0 where the source does not say."""

    study_instance_uid: str
    expected: int = 0


@dataclass(frozen=True)
class Fetched:
    """What the source says of one fetching.

    Parameters
    ----------
    sent : instances that it says it sent, or that were passed on; None where it does not say
    failed : instances that it could not send, or that the node did not take
    reason : a sentence about what went wrong; empty where nothing did
    """

    sent: int | None
    failed: int = 0
    reason: str = ""
    failed_uids: tuple[str, ...] = field(default=())


class Source(Protocol):
    """A system that studies are fetched from."""

    def find(self, query: Query) -> Iterator[Found]:
        """Yield the studies, each once.

        Raises
        ------
        SourceUnavailable, SourceRefused
            With a sentence that says what to do.
        """

    def fetch(self, study_instance_uid: str) -> Fetched:
        """Have every instance of the study come to the node's own Storage SCP; raises as `find` does."""


def parse_dates(text: str) -> tuple[date, date]:
    """Read ``YYYYMMDD`` or ``YYYYMMDD-YYYYMMDD``.

    Raises
    ------
    SettingsError
        It is not of that form, or ends before it begins.
    """
    match = re.fullmatch(r"(\d{8})(?:-(\d{8}))?", text)
    try:
        if match is None:
            raise ValueError
        first = _day(match[1])
        last = _day(match[2]) if match[2] else first
    except ValueError:
        raise SettingsError(f"--dates: expected YYYYMMDD or YYYYMMDD-YYYYMMDD, found {text!r}") from None
    if last < first:
        raise SettingsError(f"--dates: {text} ends before it begins")
    return first, last


def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


def found_of(answer: Dataset) -> Found | None:
    """Return the study of one answer; None where it names none."""
    uid = str(answer.get("StudyInstanceUID", "") or "").strip()
    if len(uid) > _LONGEST_UID or not _UID_FORM.fullmatch(uid):
        return None
    return Found(uid, number_of(answer, "NumberOfStudyRelatedInstances"))


def number_of(answer: Dataset, keyword: str) -> int:
    """Return an IS of an answer, 0 where it holds no number."""
    try:
        return max(0, int(answer.get(keyword) or 0))
    except (ValueError, TypeError):
        return 0


def modalities_of(answer: Dataset) -> set[str] | None:
    """Return Modalities in Study; None where the source does not say, and its series have to be asked for."""
    value = answer.get("ModalitiesInStudy")
    values = value if isinstance(value, MultiValue | list) else [value]
    return {str(item).strip() for item in values if item} or None
