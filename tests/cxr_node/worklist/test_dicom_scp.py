"""The DICOM worklists, asked by pynetdicom and by DCMTK."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pynetdicom import AE
from pynetdicom.sop_class import (
    ModalityWorklistInformationFind,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
    Verification,
)

from cxr_node.requestor import associate
from cxr_node.settings import Caller, Settings
from cxr_node.worklist import find_scp, ups_tasks
from cxr_node.worklist.dicom_scp import WorklistScp
from cxr_node.worklist.find_scp import FindScp
from cxr_node.worklist.services import make_services
from cxr_node.worklist.ups import work_item_uid
from storage import Database, audit, studies, work_items
from storage.work_items import COMPLETED, IN_PROGRESS
from tests.conftest import find_program
from tests.cxr_node.worklist.conftest import Clock, Ward
from tests.system.conftest import wait_until

StartScp = Callable[[Settings], WorklistScp]
PATIENT_STUDY_ONLY_FIND = b"1.2.840.10008.5.1.4.1.2.3.1"


@pytest.fixture
def start_scp(database: Database, clock: Clock) -> Iterator[StartScp]:
    """Start SCPs on free ports."""
    running: list[WorklistScp] = []

    def start(settings: Settings) -> WorklistScp:
        services = make_services(settings, database, clock)
        scp = WorklistScp(settings, services)
        scp.start()
        running.append(scp)
        return scp

    yield start
    for scp in running:
        scp.stop()


@pytest.fixture
def scp(start_scp: StartScp, settings: Settings, ward: Ward) -> WorklistScp:
    """An SCP over three studies: flagged, excluded, pending STAT."""
    ward.add("1.2.3.1", flagged=True, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう", accession_number="ACC1")
    ward.add("1.2.3.2", status="not_analysed", patient_name="Müller^Jürgen", waited_min=20)
    ward.add("1.2.3.3", status="pending", ordered="STAT", patient_name="Smith^Anna", waited_min=1)
    return start_scp(settings)


def open_association(scp: WorklistScp, *sop_classes: str, called: str = "CXR_WORKLIST", calling: str = "RIS"):
    """Return an association with the SCP."""
    ae = AE(ae_title=calling)
    for sop_class in sop_classes:
        ae.add_requested_context(sop_class)
    return associate(ae, "127.0.0.1", scp.port, ae_title=called)


def find(scp: WorklistScp, sop_class: str, keys: Dataset) -> list[tuple[int, Dataset | None]]:
    """Return status and identifier of every response."""
    association = open_association(scp, sop_class)
    assert association.is_established
    found = [(status.Status, identifier) for status, identifier in association.send_c_find(keys, sop_class)]
    association.release()
    return found


def ups_keys(**values: str) -> Dataset:
    """Return an identifier that asks for the essentials of a work item."""
    keys = Dataset()
    for keyword in ("PatientName", "SOPInstanceUID", "StudyInstanceUID", "ScheduledProcedureStepPriority"):
        setattr(keys, keyword, "")
    keys.ProcedureStepState = "SCHEDULED"
    for keyword, value in values.items():
        setattr(keys, keyword, value)
    return keys


@pytest.mark.requirement("SRS-WLT-009")
@pytest.mark.parametrize(
    "sop_class",
    [UnifiedProcedureStepPull, UnifiedProcedureStepWatch, UnifiedProcedureStepQuery],
    ids=lambda uid: uid.name,
)
def test_the_flagged_study_is_a_work_item_of_priority_high(scp, sop_class):
    """In reading order: ordered STAT first, then the flagged one; both are HIGH in the words of UPS."""
    found = find(scp, sop_class, ups_keys())
    assert [status for status, _ in found] == [0xFF00, 0xFF00, 0xFF00, 0x0000]
    items = [item for _, item in found if item is not None]
    assert [item.StudyInstanceUID for item in items] == ["1.2.3.3", "1.2.3.1", "1.2.3.2"]
    assert [item.ScheduledProcedureStepPriority for item in items] == ["HIGH", "HIGH", "LOW"]
    assert [item.SOPInstanceUID for item in items] == [work_item_uid(item.StudyInstanceUID) for item in items]
    high = find(scp, sop_class, ups_keys(ScheduledProcedureStepPriority="HIGH", StudyInstanceUID="1.2.3.1"))
    assert [str(item.PatientName) for _, item in high if item is not None] == ["Yamada^Tarou=山田^太郎=やまだ^たろう"]


@pytest.mark.requirement("SRS-WLT-009")
def test_a_work_item_says_what_to_read_and_where_it_is(scp):
    """The inputs are the study's images, to be fetched from who sent them."""
    keys = ups_keys(StudyInstanceUID="1.2.3.1")
    keys.InputInformationSequence = DicomSequence()
    keys.ReferencedRequestSequence = DicomSequence()
    keys.ScheduledWorkitemCodeSequence = DicomSequence()
    keys.InputReadinessState = keys.WorklistLabel = keys.ProcedureStepLabel = ""
    item = find(scp, UnifiedProcedureStepPull, keys)[0][1]
    assert item is not None
    code = item.ScheduledWorkitemCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("110005", "DCM", "Interpretation")
    assert (item.InputReadinessState, item.ProcedureStepState) == ("READY", "SCHEDULED")
    assert item.WorklistLabel
    assert item.ProcedureStepLabel
    given = item.InputInformationSequence[0]
    assert (given.StudyInstanceUID, given.SeriesInstanceUID) == ("1.2.3.1", "1.2.3.1.0")
    assert given.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.1.1"
    assert given.DICOMRetrievalSequence[0].RetrieveAETitle == "CR_ROOM_1"
    assert item.ReferencedRequestSequence[0].AccessionNumber == "ACC1"


@pytest.mark.requirement("SRS-WLT-009")
def test_a_pending_or_excluded_study_has_its_ordered_priority_and_says_so(scp):
    """Silence must not look like a clear chest, nor a missing result lower anybody."""
    keys = ups_keys()
    keys.CommentsOnTheScheduledProcedureStep = ""
    comments = {
        item.StudyInstanceUID: item.CommentsOnTheScheduledProcedureStep
        for _, item in find(scp, UnifiedProcedureStepPull, keys)
        if item is not None
    }
    assert comments["1.2.3.1"] == "Flagged by AI triage; priority raised"
    assert comments["1.2.3.2"] == "Not analysed by AI triage; priority as ordered"
    assert comments["1.2.3.3"] == "AI triage pending; priority as ordered"


@pytest.mark.requirement("SRS-WLT-009")
def test_a_work_item_can_be_got_by_its_uid(scp):
    """N-GET is how a subscriber reads what it found; the character set comes unasked."""
    association = open_association(scp, UnifiedProcedureStepPull)
    status, item = association.send_n_get(
        [0x00741200, 0x00100010],
        UnifiedProcedureStepPush,
        work_item_uid("1.2.3.1"),
        meta_uid=UnifiedProcedureStepPull,
    )
    assert status.Status == 0
    assert (item.ScheduledProcedureStepPriority, item.SpecificCharacterSet) == ("HIGH", "ISO_IR 192")
    assert str(item.PatientName).startswith("Yamada")
    assert "PatientID" not in item
    status, item = association.send_n_get(
        [0x00741200], UnifiedProcedureStepPush, "1.2.3.4.5", meta_uid=UnifiedProcedureStepPull
    )
    assert (status.Status, item) == (0xC307, None)
    association.release()


@pytest.mark.requirement("SRS-WLT-010")
def test_the_modality_worklist_shows_the_effective_priority(scp):
    """For whoever can ask nothing else."""
    keys = Dataset()
    keys.PatientName = "*müller*"
    keys.SpecificCharacterSet = "ISO_IR 192"
    keys.RequestedProcedurePriority = keys.AccessionNumber = keys.StudyInstanceUID = ""
    step = Dataset()
    step.Modality = "DX"
    step.ScheduledProcedureStepStartDate = "20260302-20260303"
    step.ScheduledStationAETitle = ""
    keys.ScheduledProcedureStepSequence = DicomSequence([step])
    found = find(scp, ModalityWorklistInformationFind, keys)
    assert [status for status, _ in found] == [0xFF00, 0x0000]
    item = found[0][1]
    assert item is not None
    assert (str(item.PatientName), item.RequestedProcedurePriority) == ("Müller^Jürgen", "ROUTINE")
    assert item.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "CXR_WORKLIST"
    keys.ScheduledProcedureStepSequence[0].Modality = "CT"
    assert [status for status, _ in find(scp, ModalityWorklistInformationFind, keys)] == [0x0000]


@pytest.mark.requirement("SRS-WLT-011")
def test_an_unsupported_key_is_answered_with_a_warning_and_not_with_silence(scp):
    """Pending 0xFF01 says that a key was not looked at."""
    keys = ups_keys(StudyInstanceUID="1.2.3.1")
    keys.EthnicGroup = "x"
    assert [status for status, _ in find(scp, UnifiedProcedureStepPull, keys)] == [0xFF01, 0x0000]


@pytest.mark.requirement("SRS-WLT-009", "SRS-WLT-010")
@pytest.mark.parametrize("hostile", ["O\\Brien^\x1b[31mX", "=" * 5, "^" * 70, "\u202e\u0000x"])
def test_hostile_text_of_a_sender_breaks_no_answer(scp, ward, hostile):
    """What a sender wrote in a header reaches every RIS that asks."""
    ward.add("1.2.3.9", patient_name=hostile, patient_id=hostile, study_description=hostile, birth_date="1960", age="?")
    for sop_class in (UnifiedProcedureStepPull, ModalityWorklistInformationFind):
        keys = ups_keys(StudyInstanceUID="1.2.3.9")
        keys.PatientID = keys.PatientBirthDate = keys.PatientAge = ""
        found = find(scp, sop_class, keys)
        assert len(found) == 2
        assert found[0][1] is not None
        assert "\\" not in str(found[0][1].PatientName)


@pytest.mark.requirement("SRS-WLT-007")
def test_a_query_is_audited_once_by_ae_title(scp, database):
    """A RIS asks every ten seconds; the trail says that it does."""
    for _ in range(3):
        find(scp, UnifiedProcedureStepPull, ups_keys())
    with database.read() as connection:
        entries = [entry for entry in audit.events(connection) if entry.event == "ups_queried"]
    assert [(entry.actor, entry.detail) for entry in entries] == [("RIS@127.0.0.1", {"matches": 3})]


@pytest.mark.requirement("SRS-WLT-012")
def test_who_is_not_a_caller_is_refused_with_the_right_reason(start_scp, settings):
    """Calling AE title not recognized, rejected permanent."""
    strict = settings.model_copy(update={"caller": (Caller(ae_title="RIS"),)})
    scp = start_scp(strict)
    refused = open_association(scp, Verification, calling="STRANGER")
    assert refused.is_rejected
    answer = refused.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 3)
    assert open_association(scp, Verification, called="OTHER").is_rejected
    allowed = open_association(scp, Verification)
    assert allowed.send_c_echo().Status == 0
    allowed.release()


@pytest.mark.requirement("SRS-WLT-009")
def test_a_database_that_is_gone_is_told_as_out_of_resources(scp, database):
    """The client asks again later; an empty list would say that nobody waits."""
    database.downgrade("base")
    association = open_association(scp, UnifiedProcedureStepPull)
    assert [status.Status for status, _ in association.send_c_find(ups_keys(), UnifiedProcedureStepPull)] == [0xA700]
    association.release()


@pytest.mark.requirement("SRS-WLS-502")
@pytest.mark.parametrize("is_mwl", [True, False])
def test_times_are_asked_for_and_answered_in_the_time_zone_of_the_query(scp, is_mwl):
    """The study came at 11:50 UTC, which is 12:50 where the asking system stands; the SCP's own zone is UTC."""
    keys = Dataset()
    keys.TimezoneOffsetFromUTC = "+0100"
    keys.StudyInstanceUID = ""
    if is_mwl:
        step = Dataset()
        step.ScheduledProcedureStepStartDate = "20260302-20260302"
        step.ScheduledProcedureStepStartTime = "1249-1251"
        keys.ScheduledProcedureStepSequence = DicomSequence([step])
    else:
        keys.ScheduledProcedureStepStartDateTime = "202603021249-202603021251"
    found = find(scp, ModalityWorklistInformationFind if is_mwl else UnifiedProcedureStepPull, keys)
    assert [item.StudyInstanceUID for _, item in found if item is not None] == ["1.2.3.1"]
    item = found[0][1]
    assert item is not None
    assert item.TimezoneOffsetFromUTC == "+0100"
    step = item.ScheduledProcedureStepSequence[0] if is_mwl else None
    start = step.ScheduledProcedureStepStartTime if step else item.ScheduledProcedureStepStartDateTime[8:]
    assert start == "125000"
    keys.TimezoneOffsetFromUTC = "CET"
    assert [status for status, _ in find(scp, UnifiedProcedureStepPull, keys)] == [0xA900]


@pytest.mark.requirement("SRS-UPS-010")
def test_the_modality_worklist_looks_up_a_study_by_uid(scp, ward, monkeypatch):
    """By index, as UPS does; a study that was read is on neither list."""
    monkeypatch.setattr(scp._find._services.listing, "walk", lambda: pytest.fail("the list was walked"))
    keys = Dataset()
    keys.StudyInstanceUID = "1.2.3.2"
    keys.PatientName = ""
    found = find(scp, ModalityWorklistInformationFind, keys)
    assert [str(item.PatientName) for _, item in found if item is not None] == ["Müller^Jürgen"]
    with ward.database.begin() as connection:
        studies.mark_read(connection, "1.2.3.2", ward.clock.now)
    assert [status for status, _ in find(scp, ModalityWorklistInformationFind, keys)] == [0x0000]


def run_findscu(program: str, scp: WorklistScp, *options: str) -> str:
    """Run DCMTK's findscu against the SCP and return what it prints."""
    ran = subprocess.run(
        [program, "-v", "-aec", "CXR_WORKLIST", *options, "127.0.0.1", str(scp.port)],
        capture_output=True,
        timeout=30,
    )
    text = (ran.stdout + ran.stderr).decode()
    assert ran.returncode == 0, text
    assert "Received Final Find Response (Success)" in text
    return text.split("Find Response: 1", 1)[-1] if "Find Response: 1" in text else ""


@pytest.mark.requirement("SRS-WLT-010")
@pytest.mark.peer("findscu")
def test_findscu_reads_the_modality_worklist(scp):
    """DCMTK asks in UTF-8 without saying so, with wildcards, ranges and sequence keys."""
    text = run_findscu("findscu", scp, "-W", "-k", "PatientName=*山田*", "-k", "RequestedProcedurePriority")
    assert text.count("PatientName") == 1
    assert "Yamada^Tarou=山田^太郎=やまだ^たろう" in text
    assert "RequestedProcedurePriority" in text
    assert "[HIGH]" in text
    step = "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate=20260303-"
    assert run_findscu("findscu", scp, "-W", "-k", "PatientName", "-k", step) == ""


@pytest.mark.requirement("SRS-WLT-009", "SRS-WLT-010")
@pytest.mark.peer("findscu")
def test_findscu_may_ask_the_modality_worklist_for_the_priority_of_the_work_item(scp):
    """findscu proposes no UPS SOP class; as optional keys it gets the attributes of the work item all the same."""
    text = run_findscu(
        "findscu",
        scp,
        "-W",
        "-k",
        "StudyInstanceUID",
        "-k",
        "ScheduledProcedureStepPriority=HIGH",
        "-k",
        "WorklistLabel",
    )
    assert text.count("ScheduledProcedureStepPriority") == 2
    assert "[1.2.3.1" in text
    assert "[1.2.3.2" not in text


@pytest.mark.requirement("SRS-WLT-009")
@pytest.mark.peer("findscu")
def test_findscu_that_proposes_ups_pull_reads_the_work_items(scp, tmp_path):
    """DCMTK's own encoder and decoder on UPS.

    findscu has no option for it, so this runs a copy of the program in which the UID of the retired Patient/Study Only
    model (option -O) reads UPS Pull; everything else is DCMTK's.
    """
    source = Path(find_program("findscu") or "")
    program = source.read_bytes()
    assert program.count(PATIENT_STUDY_ONLY_FIND + b"\0") == 1
    pull = UnifiedProcedureStepPull.encode().ljust(len(PATIENT_STUDY_ONLY_FIND), b"\0")
    copy = tmp_path / "findscu-ups"
    copy.write_bytes(program.replace(PATIENT_STUDY_ONLY_FIND, pull))
    shutil.copymode(source, copy)
    options = ("-k", "PatientName", "-k", "ScheduledProcedureStepPriority=HIGH", "-k", "ProcedureStepState=SCHEDULED")
    text = run_findscu(str(copy), scp, "-O", *options, "-k", "ScheduledWorkitemCodeSequence[0].CodeValue=110005")
    assert text.count("PatientName") == 2
    assert text.index("Smith^Anna") < text.index("山田^太郎")
    assert text.count("[110005]") == 2


@pytest.mark.requirement("SRS-WLT-009")
@pytest.mark.peer("echoscu")
def test_echoscu_is_answered(scp):
    """The first thing an administrator tries."""
    ran = subprocess.run(["echoscu", "-aec", "CXR_WORKLIST", "127.0.0.1", str(scp.port)], timeout=30)
    assert ran.returncode == 0


@pytest.mark.requirement("SRS-WLT-009")
def test_a_list_of_several_parts_comes_whole_and_in_order(scp, settings, database, ward, clock, monkeypatch):
    """It is read in parts, so that a long one is never held whole: nothing is left out, nothing comes twice."""
    for number in range(4, 12):
        ward.add(f"1.2.3.{number}", waited_min=100 - number)
    services = make_services(settings, database, clock)
    services.pump.run_once()

    def asked(**keys: str) -> list[tuple[str, str, str]]:
        wanted = ups_keys(ProcedureStepState="", ScheduledProcedureStepPriority="")
        wanted.update(ups_keys(**{"ProcedureStepState": "", **keys}))
        items = [item for _, item in find(scp, UnifiedProcedureStepPull, wanted) if item is not None]
        return [(item.SOPInstanceUID, item.StudyInstanceUID, item.ProcedureStepState) for item in items]

    whole = asked()
    assert len({uid for uid, _, _ in whole}) == len(whole) == 22
    assert [study for _, study, _ in whole[:3]] == ["1.2.3.3", "1.2.3.1", "1.2.3.4"]
    now = clock.now + timedelta(minutes=1)
    with database.begin() as connection:
        for number in (2, 5, 7):
            studies.mark_read(connection, f"1.2.3.{number}", now)
            row = work_items.get(connection, work_item_uid(f"1.2.3.{number}"))
            work_items.change(connection, row, state=COMPLETED, now=now)
        row = work_items.get(connection, work_item_uid("1.2.3.9"))
        work_items.change(connection, row, state=IN_PROGRESS, transaction_uid="2.25.7", now=now)
    expected, claimed = asked(), asked(ProcedureStepState="IN PROGRESS")
    assert [(study, state) for uid, study, state in expected if uid == work_item_uid(study)][-3:] == [
        ("1.2.3.5", "COMPLETED"),
        ("1.2.3.7", "COMPLETED"),
        ("1.2.3.2", "COMPLETED"),
    ]
    assert ("1.2.3.9", "IN PROGRESS") in {item[1:] for item in claimed}
    monkeypatch.setattr(ups_tasks, "MOST_UIDS", 2)
    assert asked() == expected
    assert asked(ProcedureStepState="IN PROGRESS") == claimed


@pytest.mark.requirement("SRS-WLT-009")
def test_answers_wait_for_a_reader_that_does_not_take_them(settings, database, clock, ward, monkeypatch):
    """Its list does not stand in memory whole, and whoever went away is not answered on."""
    for number in range(5):
        ward.add(f"1.2.3.{number}")
    monkeypatch.setattr(find_scp, "MOST_WAITING_RESPONSES", 2)
    queue: Queue[int] = Queue()
    is_alive = threading.Event()
    is_alive.set()
    association = SimpleNamespace(
        is_established=True,
        dul=SimpleNamespace(to_provider_queue=queue, is_alive=is_alive.is_set),
        requestor=SimpleNamespace(ae_title="RIS", address="127.0.0.1"),
    )
    event = SimpleNamespace(
        request=SimpleNamespace(AffectedSOPClassUID=UnifiedProcedureStepPull),
        identifier=ups_keys(),
        is_cancelled=False,
        assoc=association,
    )
    answered: list[int] = []

    def handle() -> None:
        for status, _ in FindScp(settings, make_services(settings, database, clock)).find(event):
            answered.append(status)
            queue.put(status)

    handler = threading.Thread(target=handle, daemon=True)
    handler.start()
    wait_until(lambda: queue.qsize() == 2, 20, "as many as may wait do")
    queue.get()
    wait_until(lambda: len(answered) == 3, 20, "one was taken, one more comes")
    handler.join(0.1)
    assert handler.is_alive()
    assert len(answered) == 3
    is_alive.clear()
    handler.join(20)
    assert not handler.is_alive()
    assert len(answered) == 3
