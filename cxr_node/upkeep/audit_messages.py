"""An entry of the audit trail as a DICOM Audit Message. Values in, bytes out. Source: DICOM PS3.15 A.5.1 to A.5.3."""

import base64
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from cxr_node.upkeep import audit_events as codes
from cxr_node.upkeep.audit_events import Row

# XML 1.0, 2.2: no other character may stand in a document, not even as a reference.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONGEST = 4000  # characters of one value: a message must pass collectors that take 8 KiB
_ADDRESSES = ("address", "peer_address")

_APPLICATION = ("110150", "Application")
_LAUNCHER = ("110151", "Application Launcher")
_DESTINATION = ("110152", "Destination Role ID")
_SOURCE = ("110153", "Source Role ID")
_DESTINATION_MEDIA = ("110154", "Destination Media")
_SOURCE_MEDIA = ("110155", "Source Media")
_STUDY = ("110180", "Study Instance UID")
_SOP_CLASS = ("110181", "SOP Class UID")
_NODE_ID = ("110182", "Node ID")
_PATIENT_NUMBER = ("2", "Patient Number")
_URI = ("12", "URI")

# Life cycle of the study (A.5.1.2.3), by family.
_LIFE_CYCLE = {
    codes.INSTANCES_TRANSFERRED: "2",
    codes.IMPORT: "2",
    codes.EXPORT: "10",
    codes.STUDY_DELETED: "15",
    codes.INSTANCES_ACCESSED: "6",
}
_QUERIED = {
    "mwl_queried": ("1.2.840.10008.5.1.4.31", "Modality Worklist Information Model - FIND"),
    "ups_queried": ("1.2.840.10008.5.1.4.34.6.3", "Unified Procedure Step - Pull"),
    "ups_searched": ("1.2.840.10008.5.1.4.34.6.3", "Unified Procedure Step - Pull"),
}


@dataclass(frozen=True)
class End:
    """Another system as node.toml knows it; empty where that says nothing."""

    ae_title: str = ""
    address: str = ""


@dataclass(frozen=True)
class Reporter:
    """Who reports: the node. `host` is its name in the network, `process` its process id.

    `ends` are its destinations and sources, by the names that entries call them.
    """

    station: str
    ae_title: str
    host: str
    process: str
    ends: Mapping[str, End] = field(default_factory=dict)


@dataclass(frozen=True)
class Patient:
    """Whose study it is; empty where nobody said."""

    patient_id: str = ""
    name: str = ""
    accession_number: str = ""


@dataclass(frozen=True)
class Told:
    """What the entry says, with its place in the chain."""

    entry: int
    seal: int
    at: datetime
    event: str
    actor: str
    study_instance_uid: str
    detail: dict[str, Any]


def message(told: Told, row: Row, reporter: Reporter, patient: Patient | None) -> bytes:
    """Return the XML, UTF-8, without a declaration of its encoding (PS3.15 A.6 puts a byte order mark before it).

    Parameters
    ----------
    patient : None where no study is known
    """
    root = ElementTree.Element("AuditMessage")
    _event(root, told, row)
    _participants(root, told, row, reporter)
    source = _child(root, "AuditSourceIdentification", AuditEnterpriseSiteID=reporter.station)
    source.set("AuditSourceID", reporter.host)
    _child(source, "AuditSourceTypeCode", **{"csd-code": "4"})
    _objects(root, told, row, reporter, patient)
    return ElementTree.tostring(root, encoding="unicode").encode("utf-8")


def _event(root: ElementTree.Element, told: Told, row: Row) -> None:
    at = told.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = _child(
        root, "EventIdentification", EventActionCode=row.action, EventDateTime=at, EventOutcomeIndicator=row.outcome
    )
    _coded(event, "EventID", row.family)
    if row.kind is not None:
        _coded(event, "EventTypeCode", row.kind)
    _coded(event, "EventTypeCode", (told.event, told.event.replace("_", " ")), system="99CXRNODE")
    if row.outcome != codes.SUCCESS:
        reason = told.detail.get("reason") or told.event.replace("_", " ")
        _child(event, "EventOutcomeDescription").text = _clean(reason)


def _participants(root: ElementTree.Element, told: Told, row: Row, reporter: Reporter) -> None:
    """Who acts, the node, and where something goes. Exactly one is the requestor."""
    family = row.family
    if family == codes.APPLICATION_ACTIVITY:
        _node(root, reporter, _APPLICATION, requestor=False)
        _actor(root, told, (_LAUNCHER,))
    elif row.way == codes.OUT_OF_NODE:
        _node(root, reporter, _SOURCE, requestor=True)
        where = str(told.detail.get("destination") or told.detail.get("source") or "unknown")
        end = reporter.ends.get(where, End())
        titles = f"AETITLES={end.ae_title}" if end.ae_title else ""
        _participant(root, where, alternative=titles, roles=(_DESTINATION,), address=end.address, requestor=False)
    elif row.way == codes.INTO_NODE:
        _actor(root, told, (_SOURCE,))
        _node(root, reporter, _DESTINATION, requestor=False)
    elif family == codes.IMPORT:
        _actor(root, told, (_DESTINATION,))
        _participant(root, "upload", roles=(_SOURCE_MEDIA,), requestor=False)
    elif family == codes.EXPORT:
        _actor(root, told, (_SOURCE,))
        _participant(root, "download", roles=(_DESTINATION_MEDIA,), requestor=False)
    else:
        _actor(root, told, ())
        if family in (codes.USER_AUTHENTICATION, codes.SECURITY_ALERT):
            _node(root, reporter, _APPLICATION, requestor=False)


def _actor(root: ElementTree.Element, told: Told, roles: tuple[tuple[str, str], ...]) -> None:
    held = str(told.detail.get("role") or "")
    name, _, where = told.actor.rpartition("@")  # callers of the worklist's DICOM port are AE@ADDRESS
    actor, heard = (name, where) if name and _is_address(where) else (told.actor, "")
    address = next((str(told.detail[key]) for key in _ADDRESSES if told.detail.get(key)), heard)
    own = [(held, held)] if held else []
    _participant(root, actor or "unknown", roles=roles, local_roles=tuple(own), address=address, requestor=True)


def _node(root: ElementTree.Element, reporter: Reporter, role: tuple[str, str], *, requestor: bool) -> None:
    _participant(
        root,
        reporter.process,
        alternative=f"AETITLES={reporter.ae_title}",
        roles=(role,),
        address=reporter.host,
        requestor=requestor,
    )


def _participant(
    root: ElementTree.Element,
    user: str,
    *,
    requestor: bool,
    roles: tuple[tuple[str, str], ...] = (),
    local_roles: tuple[tuple[str, str], ...] = (),
    alternative: str = "",
    address: str = "",
) -> None:
    made = _child(root, "ActiveParticipant", UserID=user, UserIsRequestor="true" if requestor else "false")
    for role in roles:
        _coded(made, "RoleIDCode", role)
    for role in local_roles:
        _coded(made, "RoleIDCode", role, system="99CXRNODE")
    if alternative:
        made.set("AlternativeUserID", _clean(alternative))
    if address:
        made.set("NetworkAccessPointID", _clean(address))
        made.set("NetworkAccessPointTypeCode", "2" if _is_address(address) else "1")


def _objects(root: ElementTree.Element, told: Told, row: Row, reporter: Reporter, patient: Patient | None) -> None:
    if row.family == codes.AUDIT_LOG_USED:
        made = _object(root, f"cxr-node://{reporter.host}/audit", _URI, "Security Audit Log", kind="2", role="13")
        _details(made, told)
    elif row.family == codes.SECURITY_ALERT:
        made = _object(root, reporter.host, _NODE_ID, reporter.station, kind="2", role="13", code_system="DCM")
        _details(made, told, ("Alert Description", told.event.replace("_", " ")))
    elif row.family == codes.QUERY:
        uid, name = _QUERIED.get(told.event, (told.event, told.event.replace("_", " ")))
        made = _child(
            root, "ParticipantObjectIdentification", ParticipantObjectID=uid,
            ParticipantObjectTypeCode="2", ParticipantObjectTypeCodeRole="3",
        )  # fmt: skip
        is_uid = uid[0].isdigit()
        type_code, system = (_SOP_CLASS, "DCM") if is_uid else (_URI, "RFC-3881")
        _coded(made, "ParticipantObjectIDTypeCode", type_code, system=system, display=name)
        # What was looked for is not in the trail: it may be a name that somebody typed.
        _child(made, "ParticipantObjectQuery").text = ""
        _details(made, told)
    if told.study_instance_uid:
        cycle = _LIFE_CYCLE.get(row.family, "")
        made = _object(
            root, told.study_instance_uid, _STUDY, "study", kind="2", role="3", cycle=cycle, code_system="DCM"
        )
        if row.family not in (codes.AUDIT_LOG_USED, codes.SECURITY_ALERT, codes.QUERY):
            _details(made, told)
        _description(made, told, patient)
        if patient is not None:
            _object(
                root, patient.patient_id or "unknown", _PATIENT_NUMBER, patient.name or "unknown", kind="1", role="1"
            )


def _description(study: ElementTree.Element, told: Told, patient: Patient | None) -> None:
    uid, number = told.detail.get("sop_class_uid"), told.detail.get("instances")
    made = _child(study, "ParticipantObjectDescription")
    if patient is not None and patient.accession_number:
        _child(made, "Accession", Number=patient.accession_number)
    sop_class = _child(made, "SOPClass", NumberOfInstances=str(number if isinstance(number, int) else 1))
    if uid:
        sop_class.set("UID", _clean(uid))
    if told.detail.get("sop_instance_uid"):
        _child(sop_class, "Instance", UID=str(told.detail["sop_instance_uid"]))


def _details(made: ElementTree.Element, told: Told, *more: tuple[str, str]) -> None:
    """All that the entry says goes along, its number and seal too: a copy outside can be held against the trail."""
    values = [*more, ("entry", told.entry), ("seal", told.seal), *sorted(told.detail.items())]
    details = []
    for key, value in values:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        data = base64.b64encode(text[:_LONGEST].encode("utf-8", "replace")).decode()
        detail = ElementTree.Element("ParticipantObjectDetail", {"type": _clean(key), "value": data})
        details.append(detail)
    made.extend(details)


def _object(
    root: ElementTree.Element,
    identifier: str,
    type_code: tuple[str, str],
    name: str,
    *,
    kind: str,
    role: str,
    cycle: str = "",
    code_system: str = "RFC-3881",
) -> ElementTree.Element:
    made = _child(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=identifier,
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    if cycle:
        made.set("ParticipantObjectDataLifeCycle", cycle)
    _coded(made, "ParticipantObjectIDTypeCode", type_code, system=code_system)
    _child(made, "ParticipantObjectName").text = _clean(name)
    return made


def _coded(
    parent: ElementTree.Element, tag: str, code: tuple[str, str], *, system: str = "DCM", display: str = ""
) -> None:
    attributes = {"csd-code": code[0], "codeSystemName": system, "originalText": code[1]}
    made = _child(parent, tag, **attributes)
    if display:
        made.set("displayName", _clean(display))


def _child(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {key: _clean(value) for key, value in attributes.items()})


def _clean(value: Any) -> str:
    return _NO_XML.sub("\ufffd", str(value))[:_LONGEST]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
