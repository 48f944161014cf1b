"""Entries of the audit trail as DICOM Audit Messages: valid by the standard's schema, and none forgotten."""

import ast
import base64
import itertools
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lxml import etree

from cxr_node.upkeep import audit_events
from cxr_node.upkeep.audit_events import EVENTS, Row
from cxr_node.upkeep.audit_messages import End, Patient, Reporter, Told, message
from tests.conftest import ROOT

SCHEMA = Path(__file__).parent / "schema"
AT = datetime(2026, 3, 1, 12, 30, 5, 250_000, tzinfo=UTC)
REPORTER = Reporter("cxr-node", "CXR_NODE", "node-1", "4711", {"pacs": End("PACS", "10.1.2.3")})
DOE = Patient("P1", "Doe^Jane", "A1")
MAPPED = {name: row for name, row in EVENTS.items() if isinstance(row, Row)}


def told(event, *, actor="ann", study="1.2.3", **detail):
    return Told(12, 3, AT, event, actor, study, detail)


def made(event, *, patient=DOE, **about):
    """Return the message as read back."""
    row = EVENTS[event]
    assert isinstance(row, Row)
    return etree.fromstring(message(told(event, **about), row, REPORTER, patient))


@pytest.fixture(scope="session")
def schema():
    return etree.RelaxNG(etree.parse(SCHEMA / "dicom-audit-message.rng"))


@pytest.mark.requirement("SRS-AUD-012")
@pytest.mark.parametrize("event", sorted(MAPPED))
def test_a_message_is_valid_by_the_schema_of_the_standard(event, schema):
    """A repository refuses what is not: PS3.15 A.5.1."""
    full = {"role": "reader", "address": "10.0.0.7", "reason": "because", "instances": 2, "destination": "pacs"}
    full |= {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.1", "sop_instance_uid": "1.2.3.4", "list": ["a", 1], "n": None}
    for study, patient, detail in itertools.product(("1.2.3", ""), (DOE, Patient(), None), (full, {})):
        found = made(event, study=study, patient=patient if study else None, **detail)
        assert schema.validate(found), schema.error_log
        requestors = found.xpath("ActiveParticipant[@UserIsRequestor='true']")
        assert len(requestors) == 1, "A.5.2: one participant is the requestor"


@pytest.mark.requirement("SRS-AUD-012")
@pytest.mark.peer("jing")
def test_a_second_validator_reads_the_schema_as_it_is_printed(tmp_path):
    """The form that lxml reads was converted; this one reads the compact form."""
    paths = []
    for number, event in enumerate(sorted(MAPPED)):
        paths.append(tmp_path / f"{number}.xml")
        paths[-1].write_bytes(message(told(event, role="reader", address="::1"), MAPPED[event], REPORTER, DOE))
    broken = tmp_path / "broken.xml"
    broken.write_bytes(paths[0].read_bytes().replace(b"EventOutcomeIndicator", b"Outcome"))
    command = ["jing", "-c", str(SCHEMA / "dicom-audit-message.rnc")]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert subprocess.run([*command, str(broken)], capture_output=True, timeout=120).returncode == 1


@pytest.mark.requirement("SRS-AUD-012")
@pytest.mark.parametrize(
    "text", ["<&\"'>", "\x00\x1b[2J", "\ud800", "\ufffe", "ü\U0001f600", "a\nb\r\tc", " ", "x" * 9000]
)
def test_no_text_of_a_stranger_breaks_a_message(text, schema):
    """An AE title, a name or a reason may hold anything; a message that is no XML would be lost, or worse."""
    for event in ("association_refused", "study_read", "mwl_queried", "signed_in", "object_delivered"):
        row = EVENTS[event]
        patient = Patient(text, text, text)
        data = message(
            Told(1, 1, AT, event, text, text, {"reason": text, text: text, "address": text, "destination": text}),
            row, REPORTER, patient,
        )  # fmt: skip
        assert schema.validate(etree.fromstring(data)), schema.error_log


@pytest.mark.requirement("SRS-AUD-013")
def test_a_message_tells_who_from_where_did_what_to_whose_study():
    """What a repository is asked for: user, role, address, patient, study, time."""
    found = made("study_read", role="reader", address="10.0.0.7")
    (event,) = found.xpath("EventIdentification")
    assert event.get("EventDateTime") == "2026-03-01T12:30:05.250Z"
    assert (event.get("EventActionCode"), event.get("EventOutcomeIndicator")) == ("R", "0")
    assert event.xpath("EventID/@csd-code") == ["110103"]
    (user,) = found.xpath("ActiveParticipant[@UserID='ann']")
    assert user.get("UserIsRequestor") == "true"
    assert (user.get("NetworkAccessPointID"), user.get("NetworkAccessPointTypeCode")) == ("10.0.0.7", "2")
    assert user.xpath("RoleIDCode/@csd-code") == ["reader"]
    study, patient = found.xpath("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert study.xpath("ParticipantObjectIDTypeCode/@csd-code") == ["110180"]
    assert study.xpath("ParticipantObjectDescription/Accession/@Number") == ["A1"]
    assert (patient.get("ParticipantObjectID"), patient.findtext("ParticipantObjectName")) == ("P1", "Doe^Jane")
    details = {item.get("type"): base64.b64decode(item.get("value")) for item in study.xpath("ParticipantObjectDetail")}
    assert (details["entry"], details["seal"]) == (b"12", b"3"), "a copy outside can be held against the trail"


@pytest.mark.requirement("SRS-AUD-013")
@pytest.mark.parametrize(
    ("event", "detail", "source", "destination"),
    [
        ("object_delivered", {"destination": "pacs"}, "4711", "pacs"),
        ("manifest_received", {}, "CR_1", "4711"),
        ("mwl_queried", {}, "CR_1", "4711"),
    ],
)
def test_a_transfer_names_both_ends(event, detail, source, destination):
    """Who sent and who received are told apart by their roles, 110153 and 110152."""
    found = made(event, actor="CR_1", **detail)
    assert found.xpath("ActiveParticipant[RoleIDCode/@csd-code='110153']/@UserID") == [source]
    assert found.xpath("ActiveParticipant[RoleIDCode/@csd-code='110152']/@UserID") == [destination]
    assert found.xpath("ActiveParticipant[@UserID='4711']/@AlternativeUserID") == ["AETITLES=CXR_NODE"]
    if destination == "pacs":  # as node.toml has it
        (end,) = found.xpath("ActiveParticipant[@UserID='pacs']")
        assert (end.get("AlternativeUserID"), end.get("NetworkAccessPointID")) == ("AETITLES=PACS", "10.1.2.3")


@pytest.mark.requirement("SRS-AUD-013")
def test_a_caller_with_its_address_is_told_as_both():
    """Entries of the worklist's DICOM port name AE title and address in one; an account may hold an @ too."""
    (caller,) = made("mwl_queried", actor="RIS@10.0.0.9", study="").xpath("ActiveParticipant[@UserIsRequestor='true']")
    assert (caller.get("UserID"), caller.get("NetworkAccessPointID")) == ("RIS", "10.0.0.9")
    (person,) = made("study_read", actor="ann@hospital.org").xpath("ActiveParticipant")
    assert (person.get("UserID"), person.get("NetworkAccessPointID")) == ("ann@hospital.org", None)


@pytest.mark.requirement("SRS-AUD-013")
@pytest.mark.parametrize(
    ("event", "family", "kind", "outcome"),
    [
        ("signed_in", "110114", "110122", "0"),
        ("signed_out", "110114", "110123", "0"),
        ("sign_in_failed", "110114", "110122", "4"),
        ("sign_in_refused", "110113", "110132", "8"),
        ("association_refused", "110113", "110126", "4"),
        ("audit_chain_broken", "110113", "110135", "8"),
        ("audit_read", "110101", None, "0"),
        ("node_started", "110100", "110120", "0"),
        ("instances_deleted", "110105", None, "0"),
        ("order_received", "110109", None, "0"),
        ("images_tried", "110107", None, "0"),
        ("feedback_exported", "110106", None, "0"),
    ],
)
def test_events_become_the_messages_that_the_standard_has_for_them(event, family, kind, outcome):
    """A repository counts failed logins by their codes, not by our words."""
    found = made(event, study="", patient=None, reason="x")
    assert found.xpath("EventIdentification/EventID/@csd-code") == [family]
    codes = found.xpath("EventIdentification/EventTypeCode[@codeSystemName='DCM']/@csd-code")
    assert codes == ([kind] if kind else [])
    assert found.xpath("EventIdentification/@EventOutcomeIndicator") == [outcome]


def _events_in_code():
    """Every event name that a call of `record` can be given, with where that is."""
    trees = {
        path: ast.parse(path.read_text()) for top in ("cxr_node", "storage") for path in (ROOT / top).rglob("*.py")
    }
    for path, tree in trees.items():
        if str(path.relative_to(ROOT)) in ("storage/audit.py", "cxr_node/worklist/audit.py"):
            continue  # the two functions that the names are given to
        for call in _calls(tree):
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            for name in _names(call, tree):
                yield name, where


def _calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "record":
            target = ast.unparse(node.func.value)
            if target == "audit" or target.endswith(".audit"):
                yield node


def _names(call, tree):
    """The values of its argument: written there, chosen there, or given to the function around it."""
    given = call.args[1] if ast.unparse(call.func.value) == "audit" else call.args[0]
    return _values(given, tree, call)


def _values(given, tree, place):
    if isinstance(given, ast.Constant):
        return {given.value}
    if isinstance(given, ast.IfExp):
        return _values(given.body, tree, place) | _values(given.orelse, tree, place)
    if isinstance(given, ast.Subscript) and isinstance(given.value, ast.Dict):
        return {item.value for item in given.value.values}
    if isinstance(given, ast.JoinedStr):
        return {_F_STRING}
    if isinstance(given, ast.Attribute):
        return {vars(_MODULES[ast.unparse(given.value)])[given.attr]}
    assert isinstance(given, ast.Name), ast.dump(given)
    around = _function_around(tree, place)
    found = set()
    if around is not None:
        arguments = [argument.arg for argument in around.args.args]
        if given.id in arguments:
            found |= _given_to(tree, around, arguments.index(given.id) - (arguments[0] == "self"))
    scope = around if around is not None and not found else tree
    for item in itertools.chain(ast.walk(scope), tree.body):
        if isinstance(item, ast.Assign) and any(isinstance(to, ast.Name) and to.id == given.id for to in item.targets):
            found |= _values(item.value, tree, item)
    assert found, f"{ast.unparse(given)}: found no value"
    return found


def _given_to(tree, function, position):
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == function.name:
            found |= _values(node.args[position], tree, node)
    return found


def _function_around(tree, place):
    inside = [
        item
        for item in ast.walk(tree)
        if isinstance(item, ast.FunctionDef) and any(node is place for node in ast.walk(item))
    ]
    return inside[-1] if inside else None


_MODULES = {"audit_verification": __import__("storage.audit_verification", fromlist=["CUT"])}
_F_STRING = "composed"
COMPOSED = {
    "cxr_node/worklist/find_scp.py": {"mwl_queried", "ups_queried"},
    "cxr_node/deliver/prover.py": {"delivery_proof_unavailable", "delivery_proof_failed"},
}


@pytest.mark.requirement("SRS-AUD-014")
def test_every_event_of_the_code_has_a_row_and_every_row_an_event():
    """An event that nobody thought of would never leave the house."""
    found = {}
    for name, where in _events_in_code():
        names = COMPOSED[where.split(":")[0]] if name == _F_STRING else {name}
        for one in names:
            found.setdefault(one, []).append(where)
    assert {name: where for name, where in found.items() if name not in EVENTS} == {}
    assert sorted(set(EVENTS) - set(found)) == []


@pytest.mark.requirement("SRS-AUD-014")
def test_what_is_not_exported_says_why():
    """An auditor asks."""
    reasons = [row for row in EVENTS.values() if not isinstance(row, Row)]
    assert reasons
    assert all(len(reason.split()) > 3 for reason in reasons)


@pytest.mark.requirement("SRS-AUD-013")
def test_codes_are_those_of_the_standard():
    """A mistyped code would file a message under another event; pydicom carries PS3.16."""
    from pydicom.sr._concepts_dict import concepts

    known = {code: meaning for names in concepts["DCM"].values() for code, (meaning, _) in names.items()}
    named = [
        value for value in vars(audit_events).values() if isinstance(value, tuple) and str(value[0]).startswith("110")
    ]
    assert len(named) > 20
    for code, meaning in named:
        assert known[code].lower() == meaning.lower()
