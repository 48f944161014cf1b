"""Chapters 6 to 8 of the statement: what can be configured, what is spoken on the wire, and how it is secured."""

import re
from collections.abc import Iterable, Iterator, Mapping

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from cxr_node.cli.conformance.blocks import Block, Heading, Prose, grid
from cxr_node.cli.conformance.services import Context, activities, listeners
from cxr_node.deliver import statuses as sent_statuses
from cxr_node.receive import commitment
from cxr_node.receive import statuses as taken
from cxr_node.receive.scp import MAXIMUM_PDU
from cxr_node.reporting.encode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from cxr_node.settings import Settings
from cxr_node.tls.policy import SUITES_OF_1_2
from cxr_node.worklist import dicom_scp, find_scp, ups_states

_SHOWN_KEYS = (
    ("node", "profile"),
    ("node", "tls_minimum"),
    ("receive", "ae_title"),
    ("receive", "host"),
    ("receive", "port"),
    ("receive", "processes"),
    ("receive", "maximum_associations"),
    ("receive", "per_caller_associations"),
    ("receive", "idle_timeout_s"),
    ("receive", "quiet_period_s"),
    ("receive", "manifest_wait_s"),
    ("receive", "min_free_gb"),
    ("worklist", "dicom_ae_title"),
    ("worklist", "dicom_host"),
    ("worklist", "dicom_port"),
    ("worklist", "host"),
    ("worklist", "port"),
    ("worklist", "max_wait_min"),
    ("worklist", "retain_h"),
    ("orders", "hl7_port"),
    ("upkeep", "retention_days"),
)


def configuration(settings: Settings) -> Iterator[Block]:
    """Yield chapter 6."""
    yield Heading(1, "6 Configuration")
    yield Heading(2, "6.1 General configuration parameters")
    yield Prose("One file in TOML, checked as a whole at the start; an unknown key or a bad value is refused.")
    rows = []
    for section, key in _SHOWN_KEYS:
        part = getattr(settings, section)
        field = type(part).model_fields[key]
        rows.append((f"{section}.{key}", getattr(part, key), field.default, (field.description or "").replace("`", "")))
    yield grid("Configuration parameters", ("Key", "In this configuration", "Default", "Meaning"), rows)
    yield Heading(2, "6.2 Configuration of DIMSE services")
    yield grid(
        "Callers that may open associations",
        ("Calling AE title", "Addresses", "Certificate asked for"),
        ((item.ae_title, ", ".join(item.hosts), item.certificate or "any that is signed") for item in settings.caller),
    )
    remote = [
        *((f"destination {item.name}", item.ae_title, item.host, item.port) for item in settings.destination),
        *((f"peer {item.ae_title}", item.ae_title, item.host, item.port) for item in settings.peer),
        *((f"source {item.name}", item.ae_title, item.host, item.port) for item in settings.source),
    ]
    if settings.orders.ris.ae_title.strip():
        ris = settings.orders.ris
        remote.append(("orders.ris", ris.ae_title, ris.host, ris.port))
    yield grid(
        "Remote Application Entities",
        ("Section", "AE title", "Address", "Port"),
        [row for row in remote if str(row[1]).strip()],
    )
    yield Heading(2, "6.3 Configuration of DICOM Web Services")
    web = [
        *((f"destination {item.name}", _bare(item.url)) for item in settings.destination if item.kind == "stow-rs"),
        *((f"source {item.name}", _bare(item.url)) for item in settings.source if item.kind == "dicomweb"),
    ]
    yield grid("Remote web services", ("Section", "Service root"), web)
    yield grid(
        "Destinations that speak no DICOM",
        ("Section", "Kind", "Address"),
        [
            (f"destination {item.name}", item.kind, _bare(item.url) or item.path or f"{item.host}:{item.port}")
            for item in settings.destination
            if item.kind not in ("c-store", "stow-rs", "ups")
        ],
    )
    yield Heading(2, "6.4 Configuration of media storage service")
    folder = settings.receive.watch.path or "none"
    yield grid("Watched folder", ("Key", "In this configuration"), [("receive.watch.path", folder)])
    yield Heading(2, "6.5 Configuration of Real-Time Video service")
    yield Prose("Not supported.")
    yield Heading(2, "6.6 Configuration of audit trail")
    audit = settings.audit
    where = f"{audit.syslog_host}:{audit.syslog_port}, {audit.syslog_transport}" if audit.syslog_host else "none"
    yield grid("Audit record repository", ("Key", "In this configuration"), [("audit.syslog_host", where)])


def _bare(url: str) -> str:
    """Return an address without the name and password that it may hold."""
    return re.sub(r"//[^/@\s]*@", "//…@", url)


def communication(settings: Settings) -> Iterator[Block]:
    """Yield chapter 7."""
    yield Heading(1, "7 Network and media communication details")
    yield Heading(2, "7.1 General")
    yield Heading(3, "7.1.1 General association parameters")
    yield grid("Association parameters", ("Parameter", "Value"), _parameters(settings))
    yield Heading(2, "7.2 Specifications")
    sets = syntax_sets(settings)
    for number, listener in enumerate(listeners(settings), start=1):
        here = f"7.2.{number}"
        yield Heading(3, f"{here} Application Entity {listener.entity}")
        yield Heading(4, f"{here}.1 Sequencing of real-world activities")
        yield Prose(
            "An association is let in or rejected by called AE title, calling AE title, address and, over TLS, "
            "certificate; then by the number that is open. Presentation contexts are accepted each for itself."
        )
        yield Heading(4, f"{here}.2 Association acceptance")
        yield grid(
            f"Presentation contexts accepted by {listener.entity}",
            ("SOP class", "UID", "Transfer syntaxes, set", "Role"),
            _context_rows(listener.contexts, sets),
        )
    yield Prose(
        "Of several transfer syntaxes in one presentation context the first in the order of the proposal "
        "that is accepted is taken. No extended negotiation of SOP classes is supported, and none is answered. Role "
        "selection is answered for Storage Commitment only."
    )
    yield Heading(3, "7.2.3 Association initiation")
    yield grid(
        "Presentation contexts proposed",
        ("Activity", "SOP class", "UID", "Transfer syntaxes, set", "Role", "Role selection"),
        (
            (
                item.name,
                context.name,
                context.sop_class_uid,
                sets[context.transfer_syntaxes],
                ", ".join(context.roles),
                f"{item.role_proposed} proposed" if item.role_proposed else "none",
            )
            for item in activities(settings)
            for context in item.proposed
        ),
    )
    yield grid(
        "Sets of transfer syntaxes, each in the order proposed where the node proposes",
        ("Set", "Transfer syntax", "UID"),
        (
            (name, UID(syntax).name.removesuffix(" (Default Transfer Syntax)"), syntax)
            for syntaxes, name in sets.items()
            for syntax in syntaxes
        ),
    )
    yield Heading(2, "7.3 Status codes")
    yield Heading(3, "7.3.1 General communication and failure behaviour")
    yield Prose(
        "As acceptor: an association without a message for the configured time is aborted. As initiator: no "
        "connection, a rejection and a broken association are tried again with growing pauses, up to the attempts "
        "of the destination; then the delivery is shown as failed and can be sent again."
    )
    yield Heading(3, "7.3.2 DIMSE services")
    yield grid("Statuses answered", ("Service", "Status", "Meaning"), _answered())
    yield grid("Statuses understood as an SCU", ("Service", "Status", "What happens"), _understood())
    yield Heading(3, "7.3.3 DICOM Web Services")
    yield Prose(
        "Store: success, partial success, conflict and out of resources, with a reason for each instance as C-STORE "
        "has it. UPS-RS: the statuses of PS3.18, with the Warning header where the standard asks for it."
    )


def _parameters(settings: Settings) -> Iterator[tuple[str, str]]:
    receive = settings.receive
    yield "Application Context Name", "1.2.840.10008.3.1.1.1"
    yield "Implementation Class UID, of associations", str(PYNETDICOM_IMPLEMENTATION_UID)
    yield "Implementation Version Name, of associations", str(PYNETDICOM_IMPLEMENTATION_VERSION)
    yield "Implementation Class UID, of objects made", str(IMPLEMENTATION_CLASS_UID)
    yield "Implementation Version Name, of objects made", IMPLEMENTATION_VERSION_NAME
    yield "Maximum PDU size accepted by STORAGE", f"{MAXIMUM_PDU} bytes"
    yield (
        "Associations open at once, STORAGE",
        f"{receive.maximum_associations} for each of {receive.processes} processes",
    )
    yield "Associations of one calling AE title, STORAGE", f"{receive.per_caller_associations} for each process"
    yield "Idle time after which an association ends, STORAGE", f"{receive.idle_timeout_s:g} s"
    yield "Associations open at once, WORKLIST", str(dicom_scp.MAXIMUM_ASSOCIATIONS)
    yield "Idle time after which an association ends, WORKLIST", f"{dicom_scp.IDLE_TIMEOUT_S:g} s"
    yield "Asynchronous operations window", "not negotiated: one operation at a time"
    yield "SOP class extended and common extended negotiation", "none"
    yield "User identity negotiation", "none"
    yield "IP versions", "4 and 6, by the configured address"


def syntax_sets(settings: Settings) -> dict[tuple[str, ...], str]:
    """Return a letter for each list of transfer syntaxes that is accepted or proposed, in the order of first use."""
    used = [item for listener in listeners(settings) for item in listener.contexts]
    used += [item for activity in activities(settings) for item in activity.proposed]
    return {syntaxes: chr(ord("A") + place) for place, syntaxes in enumerate(dict.fromkeys(_lists(used)))}


def _lists(contexts: Iterable[Context]) -> Iterator[tuple[str, ...]]:
    for item in contexts:
        yield item.transfer_syntaxes


def _context_rows(
    contexts: Iterable[Context], sets: Mapping[tuple[str, ...], str]
) -> Iterator[tuple[str, str, str, str]]:
    for item in contexts:
        yield item.name, item.sop_class_uid, sets[item.transfer_syntaxes], ", ".join(item.roles)


def _answered() -> Iterator[tuple[str, str, str]]:
    for status, says in (
        (taken.SUCCESS, "kept, durably; also where the same instance was here before"),
        (taken.OUT_OF_RESOURCES, "no space, or storage does not answer: send again later"),
        (taken.DATASET_DOES_NOT_MATCH, "the dataset is not what the request says"),
        (taken.CANNOT_UNDERSTAND, "the dataset does not read"),
        (taken.INVALID_UID, "a UID is not one"),
        (taken.MISSING_UID, "a UID is missing"),
        (taken.UNEXPECTED, "the node failed on this dataset"),
    ):
        yield "C-STORE", f"0x{status:04X}", says
    for status, says in (
        (find_scp.PENDING, "an answer, all keys supported"),
        (find_scp.PENDING_WITHOUT_OPTIONAL_KEYS, "an answer, some optional key not supported"),
        (find_scp.SUCCESS, "no more answers"),
        (find_scp.CANCELLED, "cancelled as asked"),
        (find_scp.OUT_OF_RESOURCES, "the database does not answer"),
        (find_scp.IDENTIFIER_DOES_NOT_MATCH, "the identifier does not read"),
    ):
        yield "C-FIND", f"0x{status:04X}", says
    for status, says in (
        (taken.INVALID_ATTRIBUTE_VALUE, "an attribute has a value that it may not have"),
        (taken.PROCESSING_FAILURE, "not kept; with the Error ID of PS3.4 where a step may no longer be updated"),
        (taken.DUPLICATE_SOP_INSTANCE, "known already"),
        (taken.NO_SUCH_INSTANCE, "not known"),
        (taken.MISSING_ATTRIBUTE, "an attribute is missing"),
        (taken.MISSING_ATTRIBUTE_VALUE, "an attribute is empty"),
    ):
        yield "MPPS, IAN", f"0x{status:04X}", says
    for status, says in (
        (commitment.NO_SUCH_INSTANCE, "not the well-known instance"),
        (commitment.NO_SUCH_EVENT, "no such event"),
        (commitment.NO_SUCH_ACTION, "no such action"),
        (commitment.INVALID_ARGUMENT, "the information does not read, or names another transaction"),
        (commitment.PROCESSING_FAILURE, "not kept: ask again"),
    ):
        yield "Storage Commitment", f"0x{status:04X}", says
    for status, says in sorted(ups_states.WORDS.items()):
        yield "UPS", f"0x{status:04X}", says


def _understood() -> Iterator[tuple[str, str, str]]:
    yield "C-STORE", "0x0000", "delivered; proof of it is asked for where configured"
    yield "C-STORE", f"0x{sent_statuses.DUPLICATE_SOP_INSTANCE:04X}", "delivered: a UID of ours stands for one content"
    yield "C-STORE", "0xBxxx, 0x0001, 0x0107, 0x0116", "delivered, with the warning kept"
    yield "C-STORE", f"0x{sent_statuses.SOP_CLASS_NOT_SUPPORTED:04X}", "the next accepted SR class is tried"
    for status in (sent_statuses.PROCESSING_FAILURE, sent_statuses.RESOURCE_LIMITATION):
        yield "C-STORE", f"0x{status:04X}", "tried again later"
    yield "C-STORE", "0xA7xx", "tried again later"
    yield "C-STORE", "any other failure", "the delivery failed; it is shown, and can be sent again"
    yield "N-EVENT-REPORT of UPS", "any", "told; a refused event is not sent again"


def security(settings: Settings) -> Iterator[Block]:
    """Yield chapter 8."""
    yield Heading(1, "8 Security")
    yield Heading(2, "8.1 Introduction")
    yield Prose(
        "Every listener is bound to the loopback address until the configuration says otherwise. Who may open an "
        "association is listed; nobody else is let in. The threat model and its controls are in the cybersecurity part "
        "of the regulatory file."
    )
    yield Heading(2, "8.2 External network requirements")
    yield Prose(
        "The addresses of section 6 and nothing else. No service of the internet is needed. The clock should be kept "
        "by NTP; the node notices when it is set."
    )
    yield Heading(2, "8.3 TCP port configuration")
    worklist, stow, orders = settings.worklist, settings.receive.dicomweb, settings.orders
    rows = [(item.entity, item.host, item.port, _tls(item.has_tls, "DICOM TLS")) for item in listeners(settings)]
    rows.append(("web page, API, UPS-RS", worklist.host, worklist.port, _tls(worklist.tls.enabled, "HTTPS")))
    if stow.port:
        rows.append(("STOW-RS", stow.host, stow.port, _tls(stow.tls.enabled, "HTTPS")))
    if orders.hl7_port:
        rows.append(("HL7 orders (MLLP)", orders.hl7_host, orders.hl7_port, _tls(orders.hl7_tls.enabled, "TLS")))
    yield grid("Ports listened on", ("Service", "Address", "Port", "Transport"), rows)
    yield Heading(2, "8.4 DICOM security profiles")
    yield grid("Profiles of PS3.15", ("Section", "Profile", "Support"), _profiles(settings))
    yield Heading(2, "8.5 User Identity Negotiation")
    yield Prose("Not supported; a certificate can be bound to a calling AE title instead.")
    yield Heading(2, "8.6 Web services security features")
    yield Prose(
        "Programs show a bearer token that an administrator made; people sign in with a password or at an identity "
        "provider (OpenID Connect). STOW-RS asks for a token with the role service unless it listens on loopback. As a "
        "user agent the node shows a bearer token or HTTP basic authentication, over TLS with the server's name "
        "checked."
    )
    yield Heading(2, "8.7 Other security features")
    yield Prose(
        "Instances and result objects can be encrypted at rest, with keys that rotate. The audit trail is a chain of "
        "digests that is verified. Model packages are taken only where every file has the digest that the manifest "
        "names."
    )


def _tls(enabled: bool, name: str) -> str:
    return name if enabled else "TCP, no TLS"


def _profiles(settings: Settings) -> Iterator[tuple[str, str, str]]:
    minimum = settings.node.tls_minimum
    yield "8.4.1", "Secure Use Profiles", "none claimed"
    yield (
        "8.4.2",
        "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile",
        f"listeners and calls; TLS {minimum} and newer, suites of TLS 1.2: {SUITES_OF_1_2}; mutual by default",
    )
    yield (
        "8.4.2",
        "Non-downgrading BCP 195 TLS Secure Transport Connection Profile",
        "the same: nothing older is spoken",
    )
    yield "8.4.3", "Media Storage Security Profiles", "none"
    yield "8.4.4", "Basic Application Level Confidentiality Profile", "the command export; see section 1.6"
    yield "8.4.5", "Digital Signature Profiles", "none"
    yield "8.4.6", "Audit Trail Message Format Profile", "audit messages; events in annex C"
    yield "8.4.6", "Audit Trail Message Transmission Profile, SYSLOG-TLS", "supported"
    yield "8.4.6", "Audit Trail Message Transmission Profile, SYSLOG-UDP", "to a collector on the same machine only"
