"""The RIS is asked for what was ordered, by the study's own numbers, and only a clear answer counts."""

import random

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityWorklistInformationFind, Verification

from cxr_node.errors import RisRefused, RisUnavailable
from cxr_node.orders.ris import RisWorklist, keys_of
from cxr_node.orders.stage import MAX_ATTEMPTS, OrderJobs
from cxr_node.settings import Ris
from cxr_node.work import Worker
from storage import audit, jobs, orders, studies
from storage.orders import HL7, Order
from tests.cxr_node.orders.messages import NOON


def item(**changes: str) -> Dataset:
    """A worklist item of the study that `add_study` makes."""
    dataset = Dataset()
    values = {
        "AccessionNumber": "A1",
        "PatientID": "P1",
        "StudyInstanceUID": "1.2.3",
        "RequestedProcedureID": "RP1",
        "RequestedProcedurePriority": "HIGH",
        **changes,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture
def start_ris():
    """A Modality Worklist SCP that answers every query with what a function of the identifier yields."""
    servers = []

    def start(find, sop_class=ModalityWorklistInformationFind) -> RisWorklist:
        ae = AE(ae_title="RIS")
        ae.add_supported_context(sop_class)

        def handle(event):
            yield from find(event.identifier)

        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, handle)])
        servers.append(server)
        ris = Ris(ae_title="RIS", host="127.0.0.1", port=server.server_address[1], timeout_s=2)
        return RisWorklist(ris, calling_ae_title="CXR_NODE", tls_files={})

    yield start
    for server in servers:
        server.shutdown()


def answers(*items: Dataset, only=lambda identifier: True):
    """A `find` that yields these items to identifiers that `only` takes."""

    def find(identifier):
        if only(identifier):
            for found in items:
                yield 0xFF00, found
        yield 0x0000, None

    return find


@pytest.fixture
def work(database, doorbell):
    """Run the job of the study once; return it as it is then."""

    def run(ris, uid="1.2.3"):
        worker = Worker(
            database=database,
            doorbell=doorbell,
            kinds=("order",),
            topic="orders",
            handle=OrderJobs(database, ris, now=lambda: NOON).handle,
            owner="orders:1:main",
            max_attempts=lambda job: MAX_ATTEMPTS,
            now=lambda: NOON,
            rng=random.Random(1),
        )
        worker.run_once()
        with database.read() as connection:
            return jobs.get(connection, "order", uid)

    return run


@pytest.mark.requirement("SRS-ORD-009")
@pytest.mark.parametrize(
    ("context", "study", "only"),
    [
        ({}, "1.2.3", lambda identifier: identifier.AccessionNumber == "A1"),
        ({"accession_number": ""}, "1.2.3", lambda identifier: identifier.StudyInstanceUID == "1.2.3"),
        (
            {"accession_number": ""},
            "9.9",
            lambda identifier: (
                identifier.PatientID == "P1"
                and identifier.ScheduledProcedureStepSequence[0].Modality == "DX"
                and identifier.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate == "20260301"
            ),
        ),
    ],
    ids=["accession number", "Study Instance UID", "patient, modality, date"],
)
def test_a_study_is_found_by_what_it_has(start_ris, work, add_study, priority, context, study, only):
    """A site without accession numbers in its images has its orders all the same."""
    add_study(**context)
    assert work(start_ris(answers(item(StudyInstanceUID=study), only=only))).state == "COMPLETED"
    assert priority() == ("HIGH", "worklist of the RIS")


@pytest.mark.requirement("SRS-ORD-009")
def test_the_accession_number_is_asked_first_and_a_list_is_no_key(add_study, database):
    """A backslash would ask for two numbers; an empty key for everything."""
    add_study()
    add_study("1.2.4", accession_number="A1\\A2", patient_id="", modality="")
    with database.read() as connection:
        whole, bare = studies.get(connection, "1.2.3"), studies.get(connection, "1.2.4")
    assert [bool(key.AccessionNumber) for key in keys_of(whole)] == [True, False, False]
    assert [str(key.StudyInstanceUID) for key in keys_of(whole)] == ["", "1.2.3", ""]
    assert [str(key.StudyInstanceUID) for key in keys_of(bare)] == ["1.2.4"]
    assert all("RequestedProcedurePriority" in key for key in keys_of(whole))


@pytest.mark.requirement("SRS-ORD-007")
@pytest.mark.parametrize(
    "found",
    [
        [item(PatientID="P2")],
        [item(AccessionNumber="A2", StudyInstanceUID="9.9", PatientID="P2")],
        [item(RequestedProcedurePriority="")],
        [item(RequestedProcedurePriority="SOON")],
        [],
    ],
    ids=["another patient", "another order", "no priority", "an unknown word", "nothing"],
)
def test_what_is_not_the_studys_order_raises_nothing(start_ris, work, add_study, priority, found):
    """Some worklists answer a wildcard, or everything, whatever they are asked."""
    add_study(accession_number="A*")
    assert work(start_ris(answers(*found))).state == "COMPLETED"
    assert priority() == ("ROUTINE", "")


@pytest.mark.requirement("SRS-ORD-009")
def test_answers_that_differ_raise_nothing_and_that_is_told(start_ris, work, add_study, priority, database):
    """Which of the two procedures the images are of, nobody knows here."""
    add_study()
    differing = [item(StudyInstanceUID="9.1"), item(StudyInstanceUID="9.2", RequestedProcedurePriority="ROUTINE")]
    work(start_ris(answers(*differing)))
    assert priority()[0] == "ROUTINE"
    with database.read() as connection:
        assert [event.event for event in audit.events(connection, study_instance_uid="1.2.3")] == ["orders_differ"]


@pytest.mark.requirement("SRS-ORD-009")
def test_two_procedures_of_a_patients_day_are_no_answer(start_ris, work, add_study, priority):
    """By patient, modality and date a second chest image of the day looks like the first."""
    add_study(accession_number="")
    found = [item(StudyInstanceUID="9.1"), item(StudyInstanceUID="9.2", AccessionNumber="A2")]
    work(start_ris(answers(*found, only=lambda identifier: identifier.PatientID)))
    assert priority()[0] == "ROUTINE"


@pytest.mark.requirement("SRS-ORD-009")
def test_the_answer_with_the_studys_own_uid_is_preferred(start_ris, work, add_study, priority):
    """One accession number, two procedures: the UID tells which."""
    add_study()
    work(start_ris(answers(item(RequestedProcedurePriority="STAT"), item(StudyInstanceUID="9.2"))))
    assert priority()[0] == "STAT"


@pytest.mark.requirement("SRS-ORD-010")
def test_a_ris_that_is_down_is_asked_again_and_given_up_in_the_end(work, add_study, priority, database):
    """Its restart must not cost an order; its end must not fill the queue."""
    add_study()
    ris = RisWorklist(
        Ris(ae_title="RIS", host="127.0.0.1", port=1, timeout_s=0.5), calling_ae_title="CXR_NODE", tls_files={}
    )
    job = work(ris)
    assert (job.state, job.attempts) == ("SCHEDULED", 1)
    assert "RIS at 127.0.0.1:1" in job.reason
    for _ in range(MAX_ATTEMPTS):
        with database.begin() as connection:
            jobs.hasten(connection, "order", ["1.2.3"], run_at=NOON)
        job = work(ris)
    assert (job.state, job.attempts) == ("FAILED", MAX_ATTEMPTS)
    assert priority()[0] == "ROUTINE"


@pytest.mark.requirement("SRS-ORD-010")
def test_what_is_known_here_counts_though_the_ris_is_down(work, add_study, priority, database):
    """An HL7 order that came before the images."""
    with database.begin() as connection:
        order = Order(HL7, "PL1", accession_number="A1", patient_id="P1", priority="STAT")
        orders.put(connection, order, now=NOON)
    add_study()
    down = RisWorklist(
        Ris(ae_title="RIS", host="127.0.0.1", port=1, timeout_s=0.5), calling_ae_title="CXR_NODE", tls_files={}
    )
    assert work(down).state == "SCHEDULED"
    assert priority() == ("STAT", "HL7 order from the RIS")
    add_study("1.2.4")
    assert work(None, "1.2.4").state == "COMPLETED", "a site without a worklist"
    assert priority("1.2.4")[0] == "STAT"


@pytest.mark.requirement("SRS-ORD-010")
@pytest.mark.parametrize(("status", "error"), [(0xA700, RisUnavailable), (0xA900, RisRefused), (0xC001, RisRefused)])
def test_a_refused_query_is_told_from_one_that_may_be_repeated(start_ris, add_study, database, status, error):
    """Asked again and again, a RIS that does not understand would be no wiser."""
    add_study()

    def find(identifier):
        yield status, None

    with database.read() as connection:
        study = studies.get(connection, "1.2.3")
    with pytest.raises(error, match=f"0x{status:04X}|{'out of resources'}"):
        start_ris(find).ask(study)


@pytest.mark.requirement("SRS-ORD-010")
def test_a_system_without_a_worklist_is_named(start_ris, add_study, database):
    """The address of the PACS in place of that of the RIS."""
    add_study()
    with database.read() as connection:
        study = studies.get(connection, "1.2.3")
    with pytest.raises(RisRefused, match="takes no Modality Worklist"):
        start_ris(answers(), sop_class=Verification).ask(study)


@pytest.mark.requirement("SRS-ORD-009")
def test_a_study_that_was_read_is_not_asked_about(work, add_study, database):
    """Its place on the list means nothing any more."""
    add_study()
    with database.begin() as connection:
        studies.mark_read(connection, "1.2.3", NOON)

    class Unasked:
        def ask(self, study):
            raise AssertionError("asked")

    assert work(Unasked()).state == "COMPLETED"
