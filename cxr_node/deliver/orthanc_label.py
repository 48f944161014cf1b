"""Destination `orthanc-label`: puts a label on a flagged study in Orthanc, which its Explorer 2 shows and filters by.

Labels came with Orthanc 1.12.0. An older one (Debian 12 has 1.10) gets user metadata of the same name instead, which
only its REST API shows and which the site has to register: ``"UserMetadata": {"ai-priority": 1024}``. Nothing is ever
taken away: a priority is not lowered, and another may have set the same label.

Source: Orthanc Book, "REST API" (labels, user-defined metadata).
"""

import json
import re
from typing import Any

from cxr_node.deliver.http import Answer, Web
from cxr_node.deliver.objects import Sent, Shelf, StoredObject, notice_of
from cxr_node.deliver.policy import NotTakenYet
from cxr_node.errors import DeliveryError, Disposition, Refused
from cxr_node.reporting import Notice
from cxr_node.settings import Destination, Settings

_LABELS_SINCE = (1, 12)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")


class OrthancLabel:
    """Labels studies of one Orthanc."""

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None:
        self._web = Web.to(destination, settings)
        self._label = destination.label

    def send(self, stored: StoredObject) -> Sent:
        """Set the label, which may be there already; a study that is not flagged is left as it is.

        Raises
        ------
        NotTakenYet
            Orthanc does not have the study yet.
        Refused
            It has the study of another patient only, or knows neither labels nor the metadata.
        Unreachable, RejectedPermanent, Busy
            See `Web.failure`.
        StorageUnavailable, NothingToSend
        """
        notice = notice_of(stored)
        if not notice.flagged:
            reason = "not sent: the study is not flagged"
            return Sent(stored.sop_class_uid, stored.sop_instance_uid, reason, skipped=True)
        version = self._version()
        reason = ""
        for study in self._studies(notice):
            if has_labels(version):
                answer = self._web.ask("PUT", f"/studies/{study}/labels/{self._label}", content=b"")
                self._check(answer, "the label")
            else:
                reason = f"set as metadata: Orthanc {version} has no labels, 1.12 and later do"
                answer = self._web.ask("PUT", f"/studies/{study}/metadata/{self._label}", content=b"1")
                if answer.status in (400, 403, 404):
                    raise self._no_metadata(version)
                self._check(answer, "the metadata")
        return Sent(stored.sop_class_uid, stored.sop_instance_uid, reason)

    def test(self) -> str:
        """Return a sentence on what would keep labels from being set, also that this Orthanc knows none."""
        try:
            version = self._version()
        except DeliveryError as error:
            return str(error)
        if not has_labels(version):
            return (
                f"{self._web.where} is Orthanc {version}, which has no labels: update it to 1.12 or later; until then "
                f"the metadata {self._label} is set, if its UserMetadata registers that name"
            )
        return ""

    def _version(self) -> str:
        answer = self._web.ask("GET", "/system")
        self._check(answer, "what it is")
        found = self._json(answer)
        version = found.get("Version") if isinstance(found, dict) else None
        if not isinstance(version, str) or not re.fullmatch(r"[A-Za-z0-9.+-]{1,32}", version):
            raise _for_good(f"{self._web.where} does not say which Orthanc it is: check url of the destination")
        return version

    def _studies(self, notice: Notice) -> list[str]:
        """Return Orthanc's ids of the study. One Study UID under two patients is two studies there: only that of the
        notice's patient is labeled."""
        answer = self._web.ask("POST", "/tools/lookup", content=notice.study_instance_uid.encode("ascii"))
        self._check(answer, "a look-up")
        found = self._json(answer)
        ids = [
            str(item.get("ID"))
            for item in (found if isinstance(found, list) else [])
            if isinstance(item, dict) and item.get("Type") == "Study" and _ID.fullmatch(str(item.get("ID")))
        ]
        if not ids:
            raise NotTakenYet(f"{self._web.where} does not have the study yet")
        if len(ids) == 1:
            return ids
        own = [item for item in ids if self._patient_id(item) == notice.patient_id.strip()]
        if not own:
            raise _for_good(f"{self._web.where} has the study under other patients only: a person has to look")
        return own

    def _patient_id(self, study: str) -> str:
        answer = self._web.ask("GET", f"/studies/{study}")
        self._check(answer, "a study")
        found = self._json(answer)
        tags = found.get("PatientMainDicomTags") if isinstance(found, dict) else None
        return str(tags.get("PatientID", "")).strip() if isinstance(tags, dict) else ""

    def _json(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise _for_good(
                f"{self._web.where} answers with something else than JSON: is it Orthanc? check url"
            ) from error

    def _check(self, answer: Answer, asked: str) -> None:
        if answer.status != 200:
            raise self._web.failure(answer, f"the request for {asked}")

    def _no_metadata(self, version: str) -> Refused:
        return _for_good(
            f"{self._web.where} is Orthanc {version}, which has no labels (1.12 and later do) and does not take the "
            f'metadata {self._label}: update it, or register "UserMetadata": {{"{self._label}": 1024}} there'
        )


def has_labels(version: str) -> bool:
    """Whether an Orthanc of that version has labels; a development version ("mainline") is newer than all."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is None or (int(found[1]), int(found[2])) >= _LABELS_SINCE


def _for_good(message: str) -> Refused:
    error = Refused(message, 0)
    error.disposition = Disposition.FAIL
    return error
