"""Destination `c-store`: a DICOM Storage SCU that sends the stored bytes as they are and understands the answer."""

import time

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from cxr_node.deliver.association import Line, accepted_syntaxes, contexts_of
from cxr_node.deliver.objects import Sent, Shelf, StoredObject
from cxr_node.deliver.statuses import (
    DUPLICATE_SOP_INSTANCE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    is_warning,
    storage_failure,
)
from cxr_node.errors import DeliveryError, Refused, StorageUnavailable
from cxr_node.reporting.fallback import SR_CLASSES
from cxr_node.settings import DICOM_OBJECTS, Destination, Settings
from storage.errors import StorageError

# A path given to send_c_store is then read and sent as it is; otherwise pynetdicom decodes and encodes it again.
_config.STORE_SEND_CHUNKED_DATASET = True

# What each kind of object may be sent as, the class to try first in front.
KIND_CLASSES: dict[str, tuple[str, ...]] = {
    "sr": SR_CLASSES,
    "sc": (SecondaryCaptureImageStorage,),
    "gsps": (GrayscaleSoftcopyPresentationStateStorage,),
    "pdf": (EncapsulatedPDFStorage,),
    "kos": (KeyObjectSelectionDocumentStorage,),
    "feedback": (Comprehensive3DSRStorage,),
}


def classes_of(stored: StoredObject) -> tuple[str, ...]:
    """Return the SOP classes that an object can be sent as: its own, and for a report the lesser ones."""
    return stored.classes if stored.kind == "sr" else (stored.sop_class_uid,)


class CStore:
    """Sends to one Storage SCP, one association an object.

    Comprehensive 3D, Comprehensive and Enhanced SR are proposed together, and the report goes as the first that the
    peer accepts; every other object goes in its own class.
    """

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None:
        self._line = Line.to(destination, settings)
        self._kinds = [kind for kind in destination.sends if kind in DICOM_OBJECTS]
        self._shelf = shelf

    def send(self, stored: StoredObject) -> Sent:
        """Send and wait for the answer.

        Returns
        -------
        Sent
            Also where the peer answered with a warning (0xBxxx: it has the object), or that it has it already (0x0111):
            a UID of ours stands for one content only.

        Raises
        ------
        Unreachable, AssociationRefused, NotNegotiated, Refused
            See `cxr_node.errors`; 0x0110 and 0x0213 may pass like 0xA7xx, PACS answer so while their database is down.
        StorageUnavailable
            The node's own file cannot be read.

        Source: DICOM PS3.4 B.2.3, PS3.7 9.1.1 and C.
        """
        classes = classes_of(stored)
        with self._line.association(contexts_of(classes), wanted=classes) as association:
            return self._store(association, stored, classes)

    def test(self) -> str:
        """Return a sentence on what would keep objects from getting there, empty where nothing does.

        An association with every class that is sent there, then C-ECHO over it; nothing is stored.
        """
        offered = list(dict.fromkeys(uid for kind in self._kinds for uid in KIND_CLASSES[kind]))
        try:
            # Verification is taken by every SCP: a peer that takes it alone is told apart from one that takes nothing.
            with self._line.association(contexts_of([*offered, Verification]), wanted=offered) as association:
                accepted = accepted_syntaxes(association)
                for kind in self._kinds:
                    if not any(uid in accepted for uid in KIND_CLASSES[kind]):
                        return f"{self._line.not_negotiated(KIND_CLASSES[kind])} (object {kind})"
                return self._echo(association) if Verification in accepted else ""
        except DeliveryError as error:
            return str(error)

    def _echo(self, association: Association) -> str:
        self._line.check(association, "C-ECHO")
        started = time.monotonic()
        answer = association.send_c_echo()
        if "Status" not in answer:
            return str(self._line.no_answer("C-ECHO", time.monotonic() - started))
        if answer.Status != SUCCESS:
            return f"{self._line.where} answered C-ECHO with 0x{answer.Status:04X}: look into its log"
        return ""

    def _store(self, association: Association, stored: StoredObject, classes: tuple[str, ...]) -> Sent:
        accepted = accepted_syntaxes(association)
        for sop_class_uid in classes:
            if sop_class_uid not in accepted:
                continue
            item = self._shelf.twin(stored, sop_class_uid)
            answer = self._ask(association, item, implicit=ExplicitVRLittleEndian not in accepted[sop_class_uid])
            status = answer.Status
            if status == SOP_CLASS_NOT_SUPPORTED:
                continue
            if status == SUCCESS:
                return Sent(sop_class_uid, item.sop_instance_uid)
            if status == DUPLICATE_SOP_INSTANCE:
                return Sent(sop_class_uid, item.sop_instance_uid, f"status 0x{status:04X}: it has the object already")
            if is_warning(status):
                return Sent(sop_class_uid, item.sop_instance_uid, f"stored with warning, status 0x{status:04X}")
            raise self._refused(answer)
        raise self._line.not_negotiated(classes)

    def _ask(self, association: Association, item: StoredObject, *, implicit: bool) -> Dataset:
        """Send one C-STORE request and return the answer's status elements."""
        self._line.check(association, "C-STORE")
        started = time.monotonic()
        try:
            # Implicit VR is for peers that take nothing else; made of the stored bytes alone, it is the same each time.
            with item.lent() as path:
                answer = association.send_c_store(dcmread(path) if implicit else path)
        except (OSError, StorageError, InvalidDicomError, AttributeError) as error:
            raise StorageUnavailable(
                f"result object {item.sop_instance_uid} cannot be read: {type(error).__name__}"
            ) from error
        if "Status" in answer:
            return answer
        raise self._line.no_answer("C-STORE", time.monotonic() - started)

    def _refused(self, answer: Dataset) -> Refused:
        # Error Comment is left out: peers write dataset values into it. Offending Element holds tags only.
        tags = answer.get("OffendingElement") or []
        named = (
            f", offending {', '.join(str(tag) for tag in ([tags] if isinstance(tags, int) else tags))}" if tags else ""
        )
        return storage_failure(f"{self._line.where} answered C-STORE", answer.Status, named)
