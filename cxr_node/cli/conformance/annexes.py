"""The annexes of the statement: objects made, their content, audit events, where attributes come from, codes."""

from collections.abc import Iterator

from pydicom.uid import UID

from cxr_node.cli.conformance.blocks import Block, Heading, Prose, grid
from cxr_node.cli.conformance.overview import OBJECTS, SR_TEMPLATES
from cxr_node.cli.conformance.services import made_classes
from cxr_node.findings.concepts import FINDINGS, PRIVATE_SCHEME, PRIVATE_SCHEME_NAME
from cxr_node.reporting import context, sr
from cxr_node.reporting.document import SERIES
from cxr_node.reporting.feedback import IHE_SCHEME, IHE_SCHEME_NAME
from cxr_node.upkeep.audit_events import EVENTS, Row


def annexes() -> Iterator[Block]:
    """Yield annexes A to E."""
    yield from _objects()
    yield from _content()
    yield from _audit()
    yield from _mapping()
    yield from _codes()


def _objects() -> Iterator[Block]:
    yield Heading(1, "Annex A Information Object Definitions")
    yield Heading(2, "A.1 Information shared across objects made")
    yield Prose(
        "Each kind of object has one series in the study it is about, the same for every revision. UIDs follow from "
        "content: study, sources, model, parameters, kind, SOP class and revision."
    )
    yield grid(
        "Objects made",
        ("Object", "SOP class", "Modality", "Series Number", "Series Description"),
        (
            (
                OBJECTS[kind],
                UID(made_classes()[kind]).name,
                series.modality,
                series.number,
                series.description,
            )
            for kind, series in SERIES.items()
        ),
    )
    yield grid(
        "Attributes that every object made has",
        ("Attribute", "Presence", "Source"),
        [
            ("Specific Character Set", "always", "ISO_IR 192"),
            ("SOP Class UID, SOP Instance UID", "always", "node"),
            ("Instance Creation Date and Time", "always", "node, in the time zone of the images where they state one"),
            ("Study Instance UID", "always", "images"),
            ("Series Instance UID, Series Number, Series Description, Modality", "always", "node"),
            ("Manufacturer, Manufacturer's Model Name, Device Serial Number, Software Versions", "always", "node"),
            ("Station Name", "always", "configuration (node.station_name)"),
        ],
    )


def _content() -> Iterator[Block]:
    yield Heading(1, "Annex B Structured Report content")
    yield Prose(
        "The report is COMPLETE, UNVERIFIED and PRELIMINARY, always: verifying takes a person. It states what was "
        "looked at, with which model, version and operating point, a number for each image and model, and a finding "
        "only where an operating point was crossed, as suspected. It never says that disease is absent: a study that "
        "is not flagged has no presence statement. An image that was not analysed stands in it with the reason."
    )
    yield grid(
        "Templates",
        ("Object", "Template", "Name"),
        [
            *((kind, f"TID {number}", name) for kind, (number, name) in SR_TEMPLATES.items()),
            ("sr", "TID 1600", "Image Library"),
            ("sr", "TID 1501", "Measurement and Qualitative Evaluation Group"),
            ("feedback", "none of the standard", "Approval Status Object, in the manner of IHE AI Results Assessment"),
        ],
    )
    yield grid(
        "Summary of a study, CID 6047",
        ("Some image not analysed", "Some operating point crossed", "Code", "Meaning"),
        [
            *(
                ("Y" if excluded else "N", "Y" if found else "N", code.value, code.meaning)
                for (excluded, found), code in sr.SUMMARY.items()
            ),
            ("all", "N", sr.NONE_SUCCEEDED.value, sr.NONE_SUCCEEDED.meaning),
        ],
    )


def _audit() -> Iterator[Block]:
    yield Heading(1, "Annex C Security details")
    yield Prose(
        "Entries of the audit trail that become DICOM Audit Messages. An entry that becomes none is kept in the trail "
        "all the same."
    )
    yield grid(
        "Audit messages",
        ("Entry", "Message", "Code", "Kind", "Action", "Outcome"),
        (
            (name, row.family[1], row.family[0], row.kind[1] if row.kind else "", row.action, row.outcome)
            for name, row in EVENTS.items()
            if isinstance(row, Row)
        ),
    )
    yield grid(
        "Entries without a message",
        ("Entry", "Why"),
        ((name, why) for name, why in EVENTS.items() if isinstance(why, str)),
    )


def _mapping() -> Iterator[Block]:
    yield Heading(1, "Annex D Mapping of attributes")
    yield grid(
        "From the images to the objects made",
        ("Attribute", "Written", "Rule"),
        [
            *((keyword, "always, empty where the images have no usable value", "images") for keyword in context.TYPE_2),
            *((keyword, "where the images have it", "images") for keyword in (*context.OPTIONAL, *context.SEQUENCES)),
            ("ReferencedRequestSequence", "where the images name a request", "Request Attributes Sequence"),
        ],
    )
    yield Prose(
        "Of the Modality Worklist of a RIS only the priority and the order's identifiers are taken over; they are kept "
        "with the study and written into no object. HL7 orders are mapped in the operating manual."
    )


def _codes() -> Iterator[Block]:
    yield Heading(1, "Annex E Code set usage")
    rows = [
        (what, code.value, code.scheme, code.meaning)
        for finding in FINDINGS.values()
        for what, code in (("finding", finding.code), ("score", finding.probability), ("site", finding.site))
    ]
    rows += [
        ("presence", sr.SUSPECTED.value, sr.SUSPECTED.scheme, sr.SUSPECTED.meaning),
        ("exclusion", sr.NOT_ANALYSED.value, sr.NOT_ANALYSED.scheme, sr.NOT_ANALYSED.meaning),
        ("group", sr.IMAGE_ANALYSIS.value, sr.IMAGE_ANALYSIS.scheme, sr.IMAGE_ANALYSIS.meaning),
        ("unit", sr.PERCENT.value, sr.PERCENT.scheme, sr.PERCENT.meaning),
    ]
    yield grid("Codes of results", ("Used for", "Code", "Scheme", "Meaning"), dict.fromkeys(rows))
    yield grid(
        "Coding schemes that are not of the standard",
        ("Designator", "Name"),
        [(PRIVATE_SCHEME, PRIVATE_SCHEME_NAME), (IHE_SCHEME, IHE_SCHEME_NAME)],
    )
