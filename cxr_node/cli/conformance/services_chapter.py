"""Chapters 4 and 5 of the statement: the Application Entities, and what each service does."""

from collections.abc import Iterable, Iterator

from pydicom.datadict import dictionary_description, keyword_for_tag
from pydicom.tag import BaseTag

from cxr_node.cli.conformance.blocks import Block, Heading, Prose, grid
from cxr_node.cli.conformance.services import activities, listeners
from cxr_node.settings import Settings
from cxr_node.worklist import mwl, ups
from cxr_node.worklist.web.ups_rs import router

_EVERY_MATCH = (
    "Single value, list of UID, wildcard, range, sequence and universal matching are supported; names "
    "of persons are compared without regard to case. A key that is not in the table is ignored and answered with the "
    "pending status that says so."
)


def model(settings: Settings) -> Iterator[Block]:
    """Yield chapter 4."""
    yield Heading(1, "4 Implementation model")
    yield Heading(2, "4.1 Application Entities and data flow")
    yield Prose(
        "```mermaid\n"
        "flowchart LR\n"
        "  sender[Modality or PACS] -->|C-STORE, STOW-RS| storage[AE STORAGE]\n"
        "  storage --> kept[(instances and jobs)]\n"
        "  kept --> analyze[models, no DICOM service]\n"
        "  analyze --> results[(results and priorities)]\n"
        "  results --> worklist[AE WORKLIST]\n"
        "  reader[RIS or PACS worklist] <-->|C-FIND, UPS, UPS-RS| worklist\n"
        "  results -->|C-STORE, STOW-RS, UPS| pacs[Destinations]\n"
        "  pacs -->|storage commitment report| storage\n"
        "  ris[RIS] -->|MWL answers, MPPS, IAN| storage\n"
        "```"
    )
    yield Heading(3, "4.1.1 Functional definition of the Application Entities")
    yield grid(
        "Application Entities",
        ("Entity", "AE title", "What it does"),
        [(item.entity, item.ae_title, _DOES[item.key]) for item in listeners(settings)],
    )


_DOES = {
    "receive": "takes instances and manifests, storage commitment in both roles; its AE title is also the calling one "
    "of what the node sends",
    "worklist": "answers queries of both worklists and performs Unified Procedure Steps; its AE title calls for the "
    "events of these",
}


def services(settings: Settings) -> Iterator[Block]:
    """Yield chapter 5."""
    yield Heading(1, "5 Service and interoperability description")
    yield Heading(2, "5.1 Mapping of services to Application Entities")
    yield grid(
        "Associations that the node asks for",
        ("Activity", "Calling AE title", "When", "In this configuration"),
        (
            (item.name, item.calling, item.when, ", ".join(item.active) or "never: nothing asks for it")
            for item in activities(settings)
        ),
    )
    yield Heading(2, "5.2 DIMSE services")
    yield from _dimse()
    yield Heading(2, "5.3 DICOM Web Services")
    yield from _web()
    yield Heading(2, "5.4 Media services")
    yield Prose("None beyond section 1.4.")
    yield Heading(2, "5.5 Real-Time Video services")
    yield Prose("None.")
    yield Heading(2, "5.6 Cross-service considerations")
    yield Prose(
        "Instances that came by C-STORE, STOW-RS, a watched folder or a fetch are one and the same afterwards. A study "
        "is analysed when its association closes or when a quiet period has passed; a report waits a while for images "
        "that MPPS or IAN announced, a priority never waits. A late image reopens its study: a new revision of the "
        "report names its predecessor, and an older revision that was not sent yet is never sent. The priority that a "
        "study was ordered with (Requested Procedure Priority, HL7) is never lowered, neither by a score nor by an "
        "error. An object that the node sends has the same UID and the same bytes whenever it is sent again."
    )
    yield Heading(2, "5.7 Specific Character Sets")
    yield Prose(
        "Objects made: ISO_IR 192, with patient and study attributes decoded from the images and encoded anew. Answers "
        "to queries: ISO_IR 192. Identifiers of queries: any set that they name; text outside the default repertoire "
        "without a named set is read as UTF-8 where it is valid UTF-8. Queries that the node sends name ISO_IR 192 "
        "only where a key is outside ASCII."
    )


def _dimse() -> Iterator[Block]:
    yield Heading(3, "5.2.1 Basic Worklist Management service")
    yield Prose(
        "As SCP the node offers the list of its studies as a Modality Worklist, for readers that can query nothing "
        "else; Requested Procedure Priority is the effective one. " + _EVERY_MATCH + " The keys beyond the information "
        "model make it a Standard Extended SOP class. As SCU it asks the RIS by accession number, then by Study "
        "Instance UID, then by patient, modality and date, and takes an answer only where it is of the study."
    )
    yield grid("Keys of the Modality Worklist", ("Attribute", "Tag"), _attributes(mwl.ATTRIBUTES))
    yield Heading(3, "5.2.2 Modality Performed Procedure Step service")
    yield Prose(
        "SCP: a step is taken as the manifest of a study. What the node needs of it is checked (state, study, list of "
        "images), the rest is taken as it is. Nothing is forwarded. A step that was completed or discontinued may no "
        "longer be updated."
    )
    yield Heading(3, "5.2.3 Unified Worklist and Procedure Step service")
    yield Prose(
        "SCP of Push, Pull, Watch and Query. Work items are the readings of studies (made by the node), the analyses "
        "of the AI (shown, performed by the node alone) and items that others create. N-CREATE, N-GET, N-SET and "
        "N-ACTION (change state, request cancellation, subscribe, unsubscribe, suspend) are supported; subscriptions "
        "with filter too. Events go to a subscriber by N-EVENT-REPORT over an association of the node's own, with the "
        "SCP role proposed, to the address that a peer section names. " + _EVERY_MATCH + " As SCU of Push and Pull the "
        "node creates a reading task at a destination of the kind ups, under a UID that is always the same, and raises "
        "its priority later; it never lowers it and leaves a task alone that somebody performs."
    )
    yield grid("Attributes of work items", ("Attribute", "Tag"), _attributes(ups.ATTRIBUTES))
    yield Heading(3, "5.2.4 Instance Availability Notification service")
    yield Prose("SCP: taken as a manifest; what it calls unavailable is not waited for. The node sends none.")
    yield Heading(3, "5.2.5 Storage service")
    yield Heading(4, "5.2.5.1 SCU of the Storage SOP classes")
    yield Prose(
        "One association an object. The report is proposed in every SR class it can be sent as, and goes in the "
        "richest that is accepted; every other object goes in its own class. The stored bytes are sent as they are; "
        "they are re-encoded only for a peer that takes Implicit VR Little Endian alone. Nothing is transcoded: "
        "objects made have no compressed pixels."
    )
    yield Heading(4, "5.2.5.2 SCP of the Storage SOP classes")
    yield Prose(
        "Level of conformance: Level 2 (full); digital signatures are kept as bytes and not verified. Instances are "
        "kept bit for bit as they came and are answered Success only after file and database are durable. The same "
        "instance again is Success; another content under a known SOP Instance UID is kept apart, marked as a conflict "
        "and never analysed. Instances are deleted after the configured retention; the node is no archive and offers "
        "no retrieval."
    )
    yield Heading(3, "5.2.6 Storage Commitment service")
    yield Prose(
        "SCP: a request is kept before it is answered, and reported on over an association of the node's own; it "
        "commits to what it holds, for the time of its retention. SCU: for objects sent, where the destination offers "
        "it; the report is taken over the same association or at the node's port."
    )
    yield Heading(3, "5.2.7 Query/Retrieve service class")
    yield Prose(
        "SCU only: C-FIND of the Study Root model to prove delivery and to list studies to fetch, C-MOVE to fetch them "
        "to the node's own port. C-GET is not used. No role as SCP. What is fetched by WADO-RS is passed on to the "
        "node's own port by C-STORE. Commands that people run (send, doctor) call under AE titles of their own and "
        "propose what their files hold, or Verification."
    )
    yield Heading(3, "5.2.8 Print Management service")
    yield Prose("Not supported.")


def _attributes(table: Iterable[BaseTag]) -> list[tuple[str, str]]:
    return [
        (dictionary_description(tag), f"({tag.group:04X},{tag.element:04X})")
        for tag in sorted(table)
        if keyword_for_tag(tag)
    ]


def _web() -> Iterator[Block]:
    yield Heading(3, "5.3.1 URI web service")
    yield Prose("Not supported.")
    yield Heading(3, "5.3.2 Studies web service")
    yield Prose(
        "Origin server of Store: requests of the media type multipart/related with parts of application/dicom; the "
        "answer is application/dicom+json. Bulk data and metadata apart from the instance are not taken. The same "
        "intake, checks and failure reasons as C-STORE. User agent of Store, Search and Retrieve, see section 1.3."
    )
    yield Heading(3, "5.3.3 Worklist web service")
    yield Prose("Origin server; payloads are application/dicom+json. Events are not sent over WebSocket.")
    yield grid("Resources of UPS-RS", ("Method", "Resource", "Transaction"), _ups_routes())
    for number, name in (
        ("5.3.4", "Non-patient instance web service"),
        ("5.3.5", "Notification web service"),
        ("5.3.6", "Storage Commitment web service"),
        ("5.3.7", "Modality Scheduled Procedure Step web service"),
        ("5.3.8", "Modality Performed Procedure Step web service"),
    ):
        yield Heading(3, f"{number} {name}")
        yield Prose("Not supported.")


def _ups_routes() -> list[tuple[str, str, str]]:
    return [
        (method, str(getattr(route, "path", "")), str(getattr(route, "summary", "") or ""))
        for route in router.routes
        for method in sorted(getattr(route, "methods", ()) or ())
    ]
