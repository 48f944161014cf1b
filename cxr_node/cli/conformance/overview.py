"""Chapters 1 to 3 of the statement: what the product does over DICOM, at a glance, and for whom this is written."""

from collections.abc import Iterator

from pydicom.uid import UID

from cxr_node import __version__
from cxr_node.analyze.acceptance import SOP_CLASSES
from cxr_node.cli.conformance.blocks import Block, Heading, Prose, grid
from cxr_node.cli.conformance.services import (
    SCP,
    SCU,
    activities,
    made_classes,
    receive_contexts,
    sent_classes,
    worklist_contexts,
)
from cxr_node.imaging.sop_classes import is_image
from cxr_node.settings import Settings

# What SR documents are built on: template, by kind of object. The builders are held to it by a test.
SR_TEMPLATES = {"sr": ("1500", "Measurement Report"), "kos": ("2010", "Key Object Selection")}

OBJECTS = {
    "sr": "the result of a study: what was looked at, with what, and which operating points were crossed",
    "sc": "the same as a card, for viewers that show no SR",
    "gsps": "outlines of what weighed in a score; profile research only",
    "pdf": "the same as a document",
    "kos": "the images of a flagged study that crossed an operating point",
    "feedback": "what a reader said of a result",
}


def overview(settings: Settings) -> Iterator[Block]:
    """Yield chapter 1."""
    yield Heading(1, "1 Overview")
    yield Prose(
        "cxr-node takes chest radiographs in over the network, looks with machine-learning models at those that its "
        "acceptance table admits, and gives back a preliminary Structured Report, a raised reading priority, or a "
        "reason why an image was not analysed. It is a research prototype and not cleared for clinical use."
    )
    yield Heading(2, "1.1 Content and transfer")
    yield grid(
        "SOP classes that are stored, made, read and displayed",
        ("SOP class", "UID", "Stored (SCP)", "Made", "Sent (SCU)", "Pixels read by a model"),
        _content(settings),
    )
    yield Heading(3, "1.1.1 Structured Reporting root template IDs")
    yield grid(
        "Root templates of documents made",
        ("Object", "SOP class made", "Root template", "Name"),
        (
            (OBJECTS[kind], UID(made_classes()[kind]).name, f"TID {number}", name)
            for kind, (number, name) in SR_TEMPLATES.items()
        ),
    )
    yield Heading(2, "1.2 DIMSE services")
    yield grid("DIMSE services", ("Service", "SOP class", "UID", "SCU", "SCP"), _dimse(settings))
    yield Prose("Print Management is not supported, neither as SCU nor as SCP. Retrieval from the node is not offered.")
    yield Heading(2, "1.3 DICOM Web Services")
    yield grid(
        "Web services",
        ("Service", "Transaction", "User agent", "Origin server", "In this configuration"),
        web_services(settings),
    )
    yield Prose(
        "The URI service, the Non-Patient Instance service, the Storage Commitment web service and the web services of "
        "scheduled and performed procedure steps are not supported."
    )
    yield Heading(2, "1.4 Media services")
    yield Prose(
        "No media application profile is claimed. Single files of the DICOM file format are read from a watched folder "
        "and from the upload page, and written by the destination of the kind folder; no DICOMDIR is read or written."
    )
    yield Heading(2, "1.5 Real-Time Video service")
    yield Prose("Not supported.")
    yield Heading(2, "1.6 De-identification profiles")
    yield Prose(
        "The command `cxr-node export` follows the Basic Application Level Confidentiality Profile of PS3.15 Annex E "
        "for radiographs, with the option Retain Longitudinal Temporal Information With Modified Dates where it is "
        "asked for. No Clean option is implemented: descriptors are removed, and images that may show text are left "
        "out."
    )
    yield Heading(2, "1.7 Specific Character Sets")
    yield Prose(
        "Datasets are kept and passed on as the bytes that came. Every character set that pydicom decodes is read; "
        "whatever the node writes is ISO_IR 192 (Unicode in UTF-8). See section 5.7."
    )


def _content(settings: Settings) -> Iterator[tuple[str, ...]]:
    stored = [item.sop_class_uid for item in receive_contexts() if len(item.transfer_syntaxes) > 4]
    made, sent, read = set(made_classes().values()), set(sent_classes()), set(SOP_CLASSES[settings.node.profile])
    research = set(SOP_CLASSES["research"]) - read
    for uid in dict.fromkeys([*stored, *sent_classes()]):
        looked = "Y" if uid in read else "profile research only" if uid in research else "N" if is_image(uid) else "-"
        yield (
            UID(uid).name,
            uid,
            "Y" if uid in stored else "N",
            "Y" if uid in made else "as a lesser class of the report" if uid in sent else "N",
            "Y" if uid in sent else "N",
            looked,
        )


def _dimse(settings: Settings) -> Iterator[tuple[str, ...]]:
    roles: dict[str, set[str]] = {}
    for item in (*receive_contexts(), *worklist_contexts()):
        if len(item.transfer_syntaxes) <= 4:
            roles.setdefault(item.sop_class_uid, set()).update(item.roles)
    for activity in activities(settings):
        for item in activity.proposed:
            if item.sop_class_uid not in sent_classes():
                roles.setdefault(item.sop_class_uid, set()).update(item.roles)
    for uid in sorted(roles, key=lambda uid: (service_of(uid), uid)):
        yield (
            service_of(uid),
            UID(uid).name,
            uid,
            "Y" if SCU in roles[uid] else "N",
            "Y" if SCP in roles[uid] else "N",
        )
    yield ("Storage", "see section 1.1", "", "Y", "Y")


def service_of(sop_class_uid: str) -> str:
    """Return the service a class that stores nothing belongs to, in the words of the template."""
    name = UID(sop_class_uid).name
    for part, service in (
        ("Verification", "Verification"),
        ("Storage Commitment", "Storage Commitment"),
        ("Modality Worklist", "Basic Worklist Management"),
        ("Performed Procedure Step", "Modality Performed Procedure Step"),
        ("Unified Procedure Step", "Unified Worklist and Procedure Step"),
        ("Instance Availability", "Instance Availability Notification"),
        ("Query/Retrieve", "Query/Retrieve"),
    ):
        if part in name:
            return service
    raise ValueError(f"{sop_class_uid} ({name}) belongs to no service of the statement")


def web_services(settings: Settings) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the rows of the web services."""
    stow = settings.receive.dicomweb
    stores = ", ".join(item.name for item in settings.destination if item.kind == "stow-rs") or "no destination"
    sources = ", ".join(item.name for item in settings.source if item.kind == "dicomweb") or "no source"
    served = f"{stow.host}:{stow.port}/studies" if stow.port else "off (receive.dicomweb.port is 0)"
    yield "Studies", "Store (STOW-RS)", "Y", "Y", f"origin server: {served}; user agent: {stores}"
    yield "Studies", "Search (QIDO-RS)", "Y", "N", f"user agent, for proof of delivery: {stores}; to fetch: {sources}"
    yield "Studies", "Retrieve (WADO-RS)", "Y", "N", f"user agent: {sources}"
    web = f"{settings.worklist.host}:{settings.worklist.port}/dicom-web/workitems"
    yield "Worklist", "UPS-RS, see section 5.3.3", "N", "Y", f"origin server: {web}"


def introduction() -> Iterator[Block]:
    """Yield chapters 2 and 3."""
    yield Heading(1, "2 Table of contents")
    yield Prose(
        "Overview · Introduction · Implementation model · Service and interoperability description · Configuration · "
        "Network and media communication details · Security · annexes A (information objects), B (Structured Report "
        "content), C (security), D (mapping of attributes), E (code sets)"
    )
    yield Heading(1, "3 Introduction")
    yield Heading(2, "3.1 Revision history")
    yield grid("Revisions", ("Software version", "Statement"), [(__version__, "generated from this version's code")])
    yield Heading(2, "3.2 Audience")
    yield Prose(
        "Whoever connects the node to a PACS, a modality or a RIS. Knowledge of DICOM and of the other side's own "
        "Conformance Statement is assumed."
    )
    yield Heading(2, "3.3 Remarks")
    yield Prose(
        "The statement is generated from the configuration and the tables that the node runs with: `cxr-node "
        "conformance` prints that of a site. A test associates with running listeners, offers every SOP class of the "
        "statement in every known transfer syntax, and others besides, and compares what is accepted with what stands "
        "here. Order and headings follow PS3.2 Annex N. The boilerplate that Annex N asks to be kept word for word is "
        "not reproduced, as its full text was not at hand when this was written: formal conformance to the template is "
        "not claimed. A Conformance Statement does not prove that two systems work together; a test between them does."
    )
    yield Heading(2, "3.4 Terms and definitions")
    yield Prose(
        "*Destination*, *source*, *peer* and *caller* are sections of the configuration file: where results go, where "
        "studies are fetched from, whom the node may call unasked, who may send. *Profile triage* is the default; "
        "*profile research* admits more and makes more objects."
    )
    yield Heading(2, "3.5 Abbreviations")
    yield Prose(
        "AE Application Entity; IAN Instance Availability Notification; MPPS Modality Performed Procedure Step; MWL "
        "Modality Worklist; PDU Protocol Data Unit; SCU, SCP Service Class User, Provider; SR Structured Report; UPS "
        "Unified Procedure Step."
    )
    yield Heading(2, "3.6 References")
    yield Prose(
        "DICOM PS3.2 Annex N; PS3.3; PS3.4 annexes B, C, F, J, K, R and CC; PS3.7; PS3.8; PS3.15 annexes A, B and E; "
        "PS3.16; PS3.18."
    )
