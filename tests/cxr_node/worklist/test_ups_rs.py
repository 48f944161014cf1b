"""Work items over HTTP, as DICOM JSON: the same states as over DIMSE, in the statuses of PS3.18 chapter 11."""

from typing import Any

import pytest
from pydicom.dataset import Dataset
from starlette.testclient import TestClient

from cxr_node.settings import Peer
from cxr_node.worklist.ups import work_item_uid
from storage import audit, subscriptions, tokens
from tests.cxr_node.worklist.conftest import with_worklist
from tests.cxr_node.worklist.ups_peer import FILTERED, GLOBAL, make, make_performed, make_work_item

LOCK, OTHER_LOCK = "2.25.11", "2.25.22"
ITEM = "1.2.999.1"
ROOT = "/dicom-web/workitems"
JSON = {"Content-Type": "application/dicom+json"}


@pytest.fixture
def client(make_client, settings) -> TestClient:
    """A client on loopback, of a node that knows a RIS."""
    peer = Peer(ae_title="RIS", host="127.0.0.1", port=1)
    return make_client(settings.model_copy(update={"peer": (peer,)}))


@pytest.fixture
def service(make_client, settings, database, clock) -> TestClient:
    """A client with a token of the role service."""
    with database.begin() as connection:
        for role in ("service", "reader", "auditor"):
            tokens.create(connection, role, role, now=clock.now, secret=f"secret-of-{role}-0123456789")
    opened = make_client(with_worklist(settings, require_token="always"))
    opened.headers["Authorization"] = "Bearer secret-of-service-0123456789"
    return opened


@pytest.fixture
def reading(ward) -> str:
    """UID of the reading task of a flagged study."""
    return work_item_uid(ward.add("1.2.3.1", flagged=True, patient_name="Yamada^Tarou=山田^太郎"))


def body(dataset: Dataset) -> str:
    """Return DICOM JSON as a client sends it: an array of one."""
    return f"[{dataset.to_json()}]"


def change(client: TestClient, uid: str, state: str, lock: str = LOCK) -> Any:
    """Ask for a state."""
    information = make(ProcedureStepState=state, TransactionUID=lock)
    return client.put(f"{ROOT}/{uid}/state", content=body(information), headers=JSON)


def update(client: TestClient, uid: str, dataset: Dataset, lock: str = "") -> Any:
    """Set attributes."""
    query = f"?transaction-uid={lock}" if lock else ""
    return client.post(f"{ROOT}/{uid}{query}", content=body(dataset), headers=JSON)


@pytest.mark.requirement("SRS-UPS-101")
def test_the_reading_list_is_found_in_reading_order(client, ward):
    """A viewer of the web asks as a RIS does by C-FIND, and gets the same."""
    ward.add("1.2.3.1", flagged=True)
    ward.add("1.2.3.2", status="not_analysed")
    ward.add("1.2.3.3", status="pending", ordered="STAT")
    found = client.get(ROOT, params={"ProcedureStepState": "SCHEDULED"})
    assert (found.status_code, found.headers["content-type"]) == (200, "application/dicom+json")
    items = found.json()
    assert [item["0020000D"]["Value"] for item in items] == [["1.2.3.3"], ["1.2.3.1"], ["1.2.3.2"]]
    assert [item["00741200"]["Value"] for item in items] == [["HIGH"], ["HIGH"], ["LOW"]]
    assert all("00081195" not in item for item in items)


@pytest.mark.requirement("SRS-UPS-101")
def test_a_search_matches_pages_and_includes(client, reading, ward):
    """QIDO's parameters: attributes by keyword, tag and path, includefield, limit and offset."""
    ward.add("1.2.3.2")
    by_name = client.get(ROOT, params={"PatientName": "*山田*"})
    assert [item["00080018"]["Value"] for item in by_name.json()] == [[reading]]
    assert "Yamada^Tarou" in by_name.text
    by_code = {"00404018.CodeValue": "110005", "ScheduledProcedureStepPriority": "HIGH"}
    assert len(client.get(ROOT, params=by_code).json()) == 1
    page = client.get(ROOT, params={"limit": "1"})
    assert (page.status_code, len(page.json())) == (206, 1)
    rest = client.get(ROOT, params={"limit": "5", "offset": "1"})
    assert (rest.status_code, len(rest.json())) == (200, 1)
    assert rest.json() != page.json()
    assert "00081080" not in by_name.json()[0]
    more = client.get(ROOT, params={"SOPInstanceUID": reading, "includefield": "AdmittingDiagnosesDescription"})
    assert "00081080" in more.json()[0]
    everything = client.get(ROOT, params={"SOPInstanceUID": reading, "includefield": "all"})
    assert "00741216" in everything.json()[0]
    assert client.get(ROOT, params={"PatientName": "Nobody"}).status_code == 204
    assert client.get(ROOT, params={"NoSuchAttribute": "x"}).status_code == 400
    assert client.get(ROOT, params={"limit": "-1"}).status_code == 400


@pytest.mark.requirement("SRS-UPS-101")
def test_fuzzy_matching_is_refused_honestly(client, reading):
    """PS3.18 8.3.4.2: who asks for it must know that it did not happen."""
    answer = client.get(ROOT, params={"PatientName": "Yamada*", "fuzzymatching": "true"})
    assert answer.status_code == 200
    assert "fuzzymatching parameter is not supported" in answer.headers["warning"]


@pytest.mark.requirement("SRS-UPS-102")
def test_a_work_item_is_claimed_updated_and_completed(client, reading, database):
    """The whole way of a reader's system, without DIMSE."""
    assert change(client, reading, "IN PROGRESS").status_code == 200
    assert update(client, reading, make_performed(), LOCK).status_code == 200
    assert change(client, reading, "COMPLETED").status_code == 200
    found = client.get(f"{ROOT}/{reading}").json()[0]
    assert found["00741000"]["Value"] == ["COMPLETED"]
    assert "00081195" not in found
    again = change(client, reading, "COMPLETED")
    assert again.status_code == 200
    assert again.headers["warning"] == "299 cxr-node: The UPS is already in the requested state of COMPLETED."
    with database.read() as connection:
        assert {"ups_claimed", "ups_set", "ups_completed", "ups_read"} <= {
            entry.event for entry in audit.events(connection)
        }


@pytest.mark.requirement("SRS-UPS-102")
def test_forbidden_changes_are_answered_as_the_standard_says(client, reading):
    """PS3.18 tables 11.6.3-1 and 11.7.3-1."""
    assert change(client, "1.2.3.4.5", "IN PROGRESS").status_code == 404
    assert change(client, reading, "COMPLETED").status_code == 409
    assert change(client, reading, "SCHEDULED").status_code == 400
    missing = client.put(f"{ROOT}/{reading}/state", content=body(make(ProcedureStepState="IN PROGRESS")), headers=JSON)
    assert (missing.status_code, missing.headers["warning"]) == (400, "299 cxr-node: The Transaction UID is missing.")
    assert update(client, reading, make(WorklistLabel="x"), LOCK).status_code == 409
    assert change(client, reading, "IN PROGRESS").status_code == 200
    assert change(client, reading, "IN PROGRESS").status_code == 409
    wrong = change(client, reading, "COMPLETED", OTHER_LOCK)
    assert (wrong.status_code, wrong.headers["warning"]) == (400, "299 cxr-node: The Transaction UID is incorrect.")
    assert change(client, reading, "COMPLETED").status_code == 409
    assert update(client, reading, make(WorklistLabel="x")).status_code == 400
    assert update(client, reading, make(WorklistLabel="x"), OTHER_LOCK).status_code == 400
    assert update(client, reading, make(PatientName="x"), LOCK).status_code == 400
    assert update(client, "1.2.3.4.5", make(WorklistLabel="x")).status_code == 404
    assert change(client, reading, "CANCELED").status_code == 200
    assert update(client, reading, make(WorklistLabel="x"), LOCK).status_code == 400
    assert change(client, reading, "COMPLETED").status_code == 409
    assert client.get(f"{ROOT}/1.2.3.4.5").status_code == 404


@pytest.mark.requirement("SRS-UPS-102")
def test_a_lowered_priority_is_not_taken_and_the_answer_says_so(client, reading):
    """DIMSE says B305."""
    answer = update(client, reading, make(ScheduledProcedureStepPriority="LOW"))
    assert (answer.status_code, "with modifications" in answer.headers["warning"]) == (200, True)
    assert client.get(f"{ROOT}/{reading}").json()[0]["00741200"]["Value"] == ["HIGH"]


@pytest.mark.requirement("SRS-UPS-102")
def test_a_cancel_request_is_accepted_or_says_why_not(client, reading, ward):
    """202: accepted, which is not canceled; 409 where the performer cannot be told."""
    assert client.post(f"{ROOT}/{reading}/cancelrequest").status_code == 202
    again = client.post(f"{ROOT}/{reading}/cancelrequest")
    assert (again.status_code, "already" in again.headers["warning"]) == (202, True)
    other = work_item_uid(ward.add("1.2.3.2"))
    change(client, other, "IN PROGRESS")
    reason = body(make(ReasonForCancellation="double"))
    assert client.post(f"{ROOT}/{other}/cancelrequest", content=reason, headers=JSON).status_code == 409
    assert client.post(f"{ROOT}/1.2.3.4.5/cancelrequest").status_code == 404


@pytest.mark.requirement("SRS-UPS-103")
def test_creating_takes_the_role_of_a_service(service):
    """Readers read and claim; schedules come from systems."""
    given = body(make_work_item())
    made = service.post(f"{ROOT}?{ITEM}", content=given, headers=JSON)
    assert (made.status_code, made.headers["location"].endswith(f"{ROOT}/{ITEM}")) == (201, True)
    assert service.post(f"{ROOT}?workitem={ITEM}", content=given, headers=JSON).status_code == 409
    assert service.post(ROOT, content=body(make_work_item(SOPInstanceUID="1.2.999.2")), headers=JSON).status_code == 201
    assert service.get(f"{ROOT}/1.2.999.2").json()[0]["00100010"]["Value"][0]["Ideographic"] == "山田^太郎"
    unnamed = service.post(ROOT, content=given, headers=JSON)
    assert (unnamed.status_code, "/2.25." in unnamed.headers["location"]) == (201, True)
    for changes in ({"ProcedureStepState": "COMPLETED"}, {"ProcedureStepLabel": ""}, {"PatientName": None}):
        lacking = body(make_work_item(**changes))
        assert service.post(f"{ROOT}?1.2.999.3", content=lacking, headers=JSON).status_code == 400
    service.headers["Authorization"] = "Bearer secret-of-reader-0123456789"
    assert service.post(f"{ROOT}?1.2.999.4", content=given, headers=JSON).status_code == 403
    assert change(service, ITEM, "IN PROGRESS").status_code == 200
    service.headers["Authorization"] = "Bearer secret-of-auditor-0123456789"
    assert service.get(f"{ROOT}/{ITEM}").status_code == 403
    assert change(service, ITEM, "COMPLETED").status_code == 403
    del service.headers["Authorization"]
    assert service.get(f"{ROOT}/{ITEM}").status_code == 401
    assert change(service, ITEM, "COMPLETED").status_code == 401


@pytest.mark.requirement("SRS-UPS-103")
def test_a_page_of_another_site_changes_nothing(client, reading):
    """A browser on this machine sends what any page tells it to."""
    foreign = {**JSON, "Origin": "https://elsewhere.example"}
    information = body(make(ProcedureStepState="IN PROGRESS", TransactionUID=LOCK))
    assert client.put(f"{ROOT}/{reading}/state", content=information, headers=foreign).status_code == 403
    assert client.post(f"{ROOT}/{reading}/cancelrequest", headers=foreign).status_code == 403
    own = {**JSON, "Origin": "http://127.0.0.1:8042"}
    assert client.put(f"{ROOT}/{reading}/state", content=information, headers=own).status_code == 200


@pytest.mark.requirement("SRS-UPS-103")
@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        ("[]", "application/dicom+json", 400),
        ("{", "application/dicom+json", 400),
        ('[{"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}}, {}]', "application/dicom+json", 400),
        ('{"00741000": 3}', "application/dicom+json", 400),
        ('{"zz": {"vr": "CS"}}', "application/dicom+json", 400),
        ('{"00420011": {"vr": "OB", "BulkDataURI": "file:///etc/passwd"}}', "application/dicom+json", 400),
        ("<NativeDicomModel/>", "application/dicom+xml", 415),
        ("{}", "", 415),
        ("[" * 100_000, "application/dicom+json", 400),
        ("x" * 1_000_001, "application/dicom+json", 413),
    ],
)
def test_a_body_that_is_no_work_item_is_refused(client, reading, content, kind, expected):
    """Whatever is sent, the answer is a sentence and no trace."""
    answer = client.put(f"{ROOT}/{reading}/state", content=content, headers={"Content-Type": kind})
    assert answer.status_code == expected
    assert answer.json()["detail"]


@pytest.mark.requirement("SRS-UPS-103")
@pytest.mark.parametrize(
    "content",
    [
        '{"00404034": {"vr": "LO", "Value": ["x"]}}',
        '{"00741204": {"vr": "SQ", "Value": [{}]}}',
        '{"00741202": {"vr": "LO", "Value": [3]}}',
        '{"00741200": {"vr": "CS", "Value": ["HIGH", "LOW"]}}',
    ],
)
def test_attributes_of_the_wrong_kind_break_nothing(client, reading, content):
    """A sequence where a text belongs must not reach the next reader."""
    answer = client.post(f"{ROOT}/{reading}", content=content, headers=JSON)
    assert answer.status_code in (200, 400)
    assert client.get(f"{ROOT}/{reading}").status_code == 200
    assert client.get(ROOT).status_code == 200


@pytest.mark.requirement("SRS-UPS-103")
def test_only_json_is_made(client, reading):
    """XML is the standard's other form; a client that wants nothing else is told."""
    assert client.get(f"{ROOT}/{reading}", headers={"Accept": "application/dicom+xml"}).status_code == 406
    assert client.get(ROOT, headers={"Accept": 'multipart/related; type="application/dicom+xml"'}).status_code == 406
    assert client.get(f"{ROOT}/{reading}", headers={"Accept": "application/json;q=0.9, text/html"}).status_code == 200


@pytest.mark.requirement("SRS-UPS-104")
def test_a_subscription_is_stored_for_an_ae_that_can_be_called(client, reading, database):
    """There is no WebSocket channel; the answer says where events go instead."""
    made = client.post(f"{ROOT}/{reading}/subscribers/RIS?deletionlock=true")
    assert (made.status_code, "N-EVENT-REPORT" in made.headers["warning"]) == (201, True)
    assert client.post(f"{ROOT}/{GLOBAL}/subscribers/RIS").status_code == 201
    filtered = client.post(
        f"{ROOT}/{FILTERED}/subscribers/RIS", params={"filter": "ScheduledProcedureStepPriority=HIGH"}
    )
    assert filtered.status_code == 201
    with database.read() as connection:
        found = {one.sop_instance_uid: one for one in subscriptions.of_receiver(connection, "RIS")}
        assert subscriptions.count_pending(connection, "RIS") == 1
    assert found[reading].deletion_lock
    assert found[FILTERED].keys["filter"] == {"00741200": {"vr": "CS", "Value": ["HIGH"]}}
    assert client.post(f"{ROOT}/{reading}/subscribers/STRANGER").status_code == 403
    assert client.post(f"{ROOT}/1.2.3.4.5/subscribers/RIS").status_code == 404
    assert client.post(f"{ROOT}/{FILTERED}/subscribers/RIS").status_code == 400
    assert client.post(f"{ROOT}/{reading}/subscribers/RIS?deletionlock=maybe").status_code == 400
    assert client.post(f"{ROOT}/{GLOBAL}/subscribers/RIS/suspend").status_code == 200
    assert client.delete(f"{ROOT}/{reading}/subscribers/RIS").status_code == 200
    assert client.delete(f"{ROOT}/{GLOBAL}/subscribers/RIS").status_code == 200
    assert client.delete(f"{ROOT}/{reading}/subscribers/RIS").status_code == 404
    assert client.get("/dicom-web/ws/subscribers/RIS").status_code == 501


@pytest.mark.requirement("SRS-UPS-105")
def test_the_list_says_who_reads(client, reading):
    """A claimed study still stands on the list, with the name of who has it."""
    assert client.get("/api/studies/1.2.3.1").json()["reading"] == {"state": "SCHEDULED", "performer": ""}
    change(client, reading, "IN PROGRESS")
    [study] = client.get("/api/studies").json()["studies"]
    assert study["reading"] == {"state": "IN PROGRESS", "performer": "anonymous@testclient"}
