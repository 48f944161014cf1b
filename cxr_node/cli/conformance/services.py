"""What the node accepts and proposes over DICOM, as values read from the tables that its stages run with.

Nothing is written down a second time that a stage keeps in a table of its own; where a stage makes its Application
Entity of single calls, they are repeated here, and a system test associates with running stages and compares.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pydicom.uid import UID, Comprehensive3DSRStorage
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    Verification,
)

from cxr_node.deliver.association import contexts_of
from cxr_node.deliver.c_store import KIND_CLASSES
from cxr_node.deliver.proof_rules import PROVABLE
from cxr_node.deliver.read_back import FIND as READ_BACK
from cxr_node.fetch.dimse import FIND, MOVE
from cxr_node.receive.commitment import Commitment
from cxr_node.receive.contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from cxr_node.receive.manifests import MANIFEST_CLASSES
from cxr_node.reporting.fallback import SR_CLASSES
from cxr_node.settings import Destination, Settings
from cxr_node.worklist.dicom_scp import SERVED

SCU, SCP = "SCU", "SCP"


@dataclass(frozen=True)
class Context:
    """A SOP class with the transfer syntaxes it is taken or proposed in, and the roles the node can have in it."""

    sop_class_uid: str
    transfer_syntaxes: tuple[str, ...]
    roles: tuple[str, ...]

    @property
    def name(self) -> str:
        """The class as the standard names it."""
        return UID(self.sop_class_uid).name


@dataclass(frozen=True)
class Listener:
    """A port that takes associations. `key` is its section of node.toml."""

    key: str
    entity: str
    ae_title: str
    host: str
    port: int
    has_tls: bool
    contexts: tuple[Context, ...]

    def takes(self, sop_class_uid: str, transfer_syntax: str) -> bool:
        """Whether a presentation context of this class and syntax is accepted."""
        return any(
            item.sop_class_uid == sop_class_uid and transfer_syntax in item.transfer_syntaxes for item in self.contexts
        )


@dataclass(frozen=True)
class Activity:
    """An association that the node asks for. `active` names what of this configuration makes it happen; empty: nothing.

    `proposed` keeps the order on the wire. `role_proposed` where role selection is negotiated.
    """

    name: str
    calling: str
    when: str
    proposed: tuple[Context, ...]
    active: tuple[str, ...] = ()
    role_proposed: str = ""


def listeners(settings: Settings) -> tuple[Listener, ...]:
    """Return every port that speaks DIMSE in this configuration."""
    receive, worklist = settings.receive, settings.worklist
    return (
        Listener(
            "receive",
            "STORAGE",
            receive.ae_title.strip(),
            receive.host,
            receive.port,
            receive.tls.enabled,
            receive_contexts(),
        ),
        Listener(
            "worklist",
            "WORKLIST",
            worklist.dicom_ae_title.strip(),
            worklist.dicom_host,
            worklist.dicom_port,
            worklist.dicom_tls.enabled,
            worklist_contexts(),
        ),
    )


def receive_contexts() -> tuple[Context, ...]:
    """Return what the port of the stage receive accepts; see `receive.scp.StorageScp`."""
    ae = AE()
    ae.add_supported_context(VERIFICATION)
    for sop_class in STORAGE_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    for sop_class in MANIFEST_CLASSES:
        ae.add_supported_context(sop_class)
    Commitment.support(ae)
    return _accepted(ae)


def worklist_contexts() -> tuple[Context, ...]:
    """Return what the port of the stage worklist accepts; see `worklist.dicom_scp.WorklistScp`."""
    ae = AE()
    for sop_class in SERVED:
        ae.add_supported_context(sop_class)
    return _accepted(ae)


def _accepted(ae: AE) -> tuple[Context, ...]:
    return tuple(
        Context(
            str(item.abstract_syntax),
            tuple(str(syntax) for syntax in item.transfer_syntax),
            # A requestor that takes the SCP role makes the node an SCU: it hears reports that it asked for.
            (SCP, SCU) if item.scp_role else (SCP,),
        )
        for item in ae.supported_contexts
    )


def activities(settings: Settings) -> tuple[Activity, ...]:
    """Return every kind of association that the node can ask for, those of this configuration named in `active`."""
    own, worklist = settings.receive.ae_title.strip(), settings.worklist.dicom_ae_title.strip()
    stores = [item for item in settings.destination if item.kind == "c-store"]
    tasks = [item for item in settings.destination if item.kind == "ups"]
    proved = [item for item in stores if item.commit and item.kind in PROVABLE]
    peers = tuple(peer.ae_title.strip() for peer in settings.peer)
    dimse = tuple(source.name for source in settings.source if source.kind == "dimse")
    return (
        Activity(
            "Send result objects",
            own,
            "a result object is due for a destination of the kind c-store; one association an object",
            _proposed(sent_classes(), SCU),
            _names(stores),
        ),
        Activity(
            "Prove delivery by storage commitment",
            own,
            "an object was answered Success and proof is asked for; the report comes over this association or to the "
            "node's own port",
            _proposed([StorageCommitmentPushModel], SCU),
            _names(item for item in proved if item.proof in ("auto", "storage-commitment")),
        ),
        Activity(
            "Prove delivery by query",
            own,
            "the destination offers no commitment, or the configuration asks for the query",
            _proposed([READ_BACK], SCU),
            _names(item for item in proved if item.proof in ("auto", "query")),
        ),
        Activity(
            "Report storage commitment",
            own,
            "a system that asked the node for commitment is owed the report, and a peer section names its address",
            _proposed([StorageCommitmentPushModel], SCP),
            peers,
            "SCP",
        ),
        Activity(
            "Create reading tasks",
            own,
            "a priority notice is due for a destination of the kind ups",
            _proposed([UnifiedProcedureStepPush, UnifiedProcedureStepPull], SCU),
            _names(tasks),
        ),
        Activity(
            "Send events of work items",
            worklist,
            "a subscriber is owed an event, and a peer section names its address",
            _by_default([UnifiedProcedureStepEvent], SCP),
            peers,
            "SCP",
        ),
        Activity(
            "Ask the RIS for orders",
            own,
            "a study arrived and the section orders.ris names a worklist",
            _by_default([ModalityWorklistInformationFind], SCU),
            (settings.orders.ris.ae_title.strip(),) if settings.orders.ris.ae_title.strip() else (),
        ),
        Activity(
            "Fetch studies",
            own,
            "somebody runs a back-catalogue; images come to the node's own port",
            _by_default([FIND, MOVE], SCU),
            dimse,
        ),
        Activity(
            "Test a connection",
            own,
            "somebody runs a test of a destination or the command doctor",
            (*_proposed(sent_classes(), SCU), *_proposed([Verification], SCU)),
            _names([*stores, *tasks]),
        ),
    )


def sent_classes() -> tuple[str, ...]:
    """Return the SOP classes of the objects that the node makes and sends, each once, the report's in front."""
    found = dict.fromkeys([*SR_CLASSES, *(uid for classes in KIND_CLASSES.values() for uid in classes)])
    return tuple(str(uid) for uid in found)


def made_classes() -> dict[str, str]:
    """Return, by kind of object, the SOP class it is built in; the report can be brought to lesser classes."""
    return {kind: str(classes[0] if classes else Comprehensive3DSRStorage) for kind, classes in KIND_CLASSES.items()}


def _proposed(classes: Collection[str], role: str) -> tuple[Context, ...]:
    """As `deliver.association.contexts_of` proposes them: two contexts a class."""
    found: dict[str, list[str]] = {}
    for item in contexts_of(classes):
        found.setdefault(str(item.abstract_syntax), []).extend(str(syntax) for syntax in item.transfer_syntax)
    return tuple(Context(uid, tuple(syntaxes), (role,)) for uid, syntaxes in found.items())


def _by_default(classes: Iterable[str], role: str) -> tuple[Context, ...]:
    """As the toolkit proposes a class whose transfer syntaxes are left to it: one context with all of them."""
    ae = AE()
    for sop_class in classes:
        ae.add_requested_context(sop_class)
    return tuple(
        Context(str(item.abstract_syntax), tuple(str(syntax) for syntax in item.transfer_syntax), (role,))
        for item in ae.requested_contexts
    )


def _names(destinations: Iterable[Destination]) -> tuple[str, ...]:
    return tuple(item.name for item in destinations)
