"""A destination answered Success: does it hold the object?"""

import re
from datetime import timedelta

import pytest
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, generate_uid

from cxr_node import metrics
from cxr_node.deliver import proof
from cxr_node.deliver.proof_rules import ASKS, FILED_WITHIN_S, RESENDS, UNREPORTED_ASKS
from cxr_node.settings import Destination
from storage import audit, commitments, deliveries, jobs
from tests.cxr_node.deliver.proving import FIND, Proving, archive_on_free_port, serving_archive

COMMITTED = ("COMMITTED", "proved", "storage-commitment")
FOUND = ("COMMITTED", "proved", "query")


@pytest.fixture
def archive():
    with serving_archive(archive_on_free_port()) as running:
        yield running


def proving_at(node, archive, **changes) -> Proving:
    return Proving(node, archive.destination(**changes))


def holding(proving: Proving, delivery_id: int) -> dict[str, tuple[str, str]]:
    found = proving.delivery(delivery_id)
    return {found.sop_instance_uid: (found.sop_class_uid, found.study_instance_uid)}


@pytest.mark.requirement("SRS-DLV-101")
def test_a_delivery_is_committed_when_the_peer_says_so(node, archive):
    """Success tells that the bytes were taken; only this tells that they are kept."""
    proving = proving_at(node, archive)
    delivery_id = proving.delivered()
    assert proving.proof(delivery_id) == ("DELIVERED", "asked", "")
    proving.after(1.1)
    assert proving.proof(delivery_id) == COMMITTED
    found = proving.delivery(delivery_id)
    (request,) = archive.requests
    (item,) = request.ReferencedSOPSequence
    assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (found.sop_class_uid, found.sop_instance_uid)
    assert archive.callers == ["CXR_NODE"], "the peer finds the node's listener by this name"
    assert archive.answers == [0x0000]
    assert found.proof_at == proving.now
    with node.database.read() as connection:
        events = [event.event for event in audit.events(connection, study_instance_uid=found.study_instance_uid)]
    assert events == ["delivery_proof_proved"]


@pytest.mark.requirement("SRS-DLV-101")
def test_many_deliveries_are_asked_for_over_one_association(node, archive):
    """A burst of studies must not cost an association each, nor the wait for each report."""
    proving = proving_at(node, archive)
    made = [proving.delivered() for _ in range(5)]
    assert proving.after(1.1) == 10, "five requests, five reports"
    assert {proving.proof(delivery_id) for delivery_id in made} == {COMMITTED}
    assert len(set(archive.transactions)) == 5


@pytest.mark.requirement("SRS-DLV-101")
def test_a_report_to_the_listener_is_taken_at_once(node):
    """Most archives report over an association of their own, minutes later."""
    with serving_archive(archive_on_free_port(report="silent")) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()
        proving.prover.linger_s = 0.0
        proving.after(1.1)
        assert proving.proof(delivery_id) == ("DELIVERED", "asked", "storage-commitment")
        assert "report not here yet" in proving.delivery(delivery_id).proof_reason
        assert proving.after(100) == 0, "it waits"
        assert proving.report(delivery_id, archive.transactions[0]) is not None
        assert proving.after(0.001) == 1
    assert proving.proof(delivery_id) == COMMITTED


@pytest.mark.requirement("SRS-DLV-101")
def test_a_report_that_comes_before_the_answer_to_the_request_counts(node, monkeypatch):
    """A fast archive reports from another thread: the transaction is durable before anybody hears of it."""
    with serving_archive(archive_on_free_port(report="silent")) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()
        ask = proof.Prover._linger

        def report_first(prover, association, asked):
            assert proving.report(delivery_id, asked[0].transaction_uid) is not None
            ask(prover, association, asked)

        monkeypatch.setattr(proof.Prover, "_linger", report_first)
        assert proving.after(1.1) == 2, "asked, and settled without waiting for the time-out"
    assert proving.proof(delivery_id) == COMMITTED


@pytest.mark.requirement("SRS-DLV-102")
def test_a_dropped_object_is_found_and_raised(node, caplog):
    """Orthanc answers Success and keeps another object of that UID: nothing else shows it."""
    before = metrics.PROOFS.labels("pacs", "storage-commitment", "failed")._value.get()
    with serving_archive(archive_on_free_port(report=0x0119)) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()
        proving.after(1.1)
    assert proving.proof(delivery_id) == ("FAILED", "failed", "storage-commitment")
    found = proving.delivery(delivery_id)
    assert "0x0119, another SOP class under this UID" in found.reason == found.proof_reason
    with node.database.read() as connection:
        (event,) = audit.events(connection, study_instance_uid=found.study_instance_uid)
    assert (event.event, event.detail["reason"]) == ("delivery_proof_failed", found.reason)
    assert metrics.PROOFS.labels("pacs", "storage-commitment", "failed")._value.get() == before + 1


@pytest.mark.requirement("SRS-DLV-103")
def test_a_lost_object_is_sent_again_as_the_same_bytes_and_not_for_ever(node):
    """An archive that lost its disk gets the report back; one that loses every one is shown to a person."""
    with serving_archive(archive_on_free_port(report=0x0112)) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()
        sent = node.stored(delivery_id)
        for number in range(1, RESENDS + 1):
            proving.after(1.1)
            found = proving.delivery(delivery_id)
            assert (found.state, found.proof, found.resends) == ("SCHEDULED", "", number)
            job = proving.job("deliver", delivery_id)
            wait_s = (job.run_at - proving.now).total_seconds()
            assert job.state == jobs.SCHEDULED
            assert wait_s == pytest.approx(10 * 4 ** (number - 1))
            assert node.stored(delivery_id) == sent
            proving.now = job.run_at
            proving.deliver(delivery_id)
        proving.after(1.1)
    assert proving.proof(delivery_id) == ("FAILED", "failed", "storage-commitment")
    assert "0x0112, no such SOP Instance" in proving.delivery(delivery_id).reason
    assert len(set(archive.transactions)) == RESENDS + 1


@pytest.mark.requirement("SRS-DLV-103")
def test_a_person_who_sends_again_starts_the_count_anew(node):
    """Whoever mended the archive must not be met by the failures of yesterday."""
    with serving_archive(archive_on_free_port(report=0x0119)) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()
        with node.database.begin() as connection:
            deliveries.send_again(connection, delivery_id, reason="lost", now=proving.now)
        proving.deliver(delivery_id)
        proving.after(1.1)
        assert proving.delivery(delivery_id).resends == 1
        archive.report = None
        proving.deliver(delivery_id)
        assert proving.delivery(delivery_id).resends == 0
        proving.after(1.1)
    assert proving.proof(delivery_id) == COMMITTED


@pytest.mark.requirement("SRS-DLV-103")
@pytest.mark.parametrize("reason", [0x0110, 0x0213, 0x0131])
def test_a_failure_that_may_pass_is_asked_about_again_under_a_new_transaction(node, reason):
    """A database that is down for an hour is no lost report."""
    with serving_archive(archive_on_free_port(report=reason)) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()
        proving.after(1.1)
        assert proving.proof(delivery_id) == ("DELIVERED", "asked", "storage-commitment")
        assert f"0x{reason:04X}" in proving.delivery(delivery_id).proof_reason
        assert proving.after(59) == 0
        archive.report = None
        proving.after(2)
    assert proving.proof(delivery_id) == COMMITTED
    assert len(set(archive.transactions)) == 2


@pytest.mark.requirement("SRS-DLV-103")
def test_a_peer_that_never_can_tell_is_given_up(node):
    """Bounded: a person has to look, and is told."""
    with serving_archive(archive_on_free_port(report=0x0110)) as archive:
        proving = proving_at(node, archive, proof="storage-commitment")
        delivery_id = proving.delivered()
        for _ in range(ASKS):
            proving.after(3700)
    assert proving.proof(delivery_id) == ("FAILED", "failed", "storage-commitment")
    assert len(archive.transactions) == ASKS


@pytest.mark.requirement("SRS-DLV-104")
def test_a_peer_that_never_reports_is_asked_by_a_query_after_the_time_out(node):
    """Many archives take the request and cannot call back, for nobody gave them the node's address."""
    with serving_archive(archive_on_free_port(report="silent")) as archive:
        proving = proving_at(node, archive, commit_timeout_s=60)
        delivery_id = proving.delivered()
        proving.prover.linger_s = 0.0
        proving.after(1.1)
        archive.holds = holding(proving, delivery_id)
        assert proving.after(58) == 0
        proving.after(3)
        assert proving.proof(delivery_id) == FOUND
        assert proving.report(delivery_id, archive.transactions[0], 0x0112) is None, "too late to undo the proof"
        assert proving.after(1) == 0
    (query,) = archive.queries
    sent = dcmread(node.stored(delivery_id).path)
    assert query.QueryRetrieveLevel == "IMAGE"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert query[keyword].value == sent[keyword].value
    assert proving.proof(delivery_id) == FOUND


@pytest.mark.requirement("SRS-DLV-104")
def test_where_only_commitment_will_do_a_silent_peer_is_asked_anew_and_then_shown(node):
    """Nothing says that the object is lost: delivered, not proved, with the reason; a late report still proves it."""
    with serving_archive(archive_on_free_port(report="silent")) as archive:
        proving = proving_at(node, archive, proof="storage-commitment", commit_timeout_s=60)
        proving.prover.linger_s = 0.0
        delivery_id = proving.delivered()
        proving.after(1.1)
        for _ in range(UNREPORTED_ASKS):
            proving.after(61)
        assert proving.proof(delivery_id) == ("DELIVERED", "unavailable", "storage-commitment")
        assert (
            "did not report within 60 s: it must know the node's AE title" in proving.delivery(delivery_id).proof_reason
        )
        assert len(set(archive.transactions)) == UNREPORTED_ASKS
        assert archive.queries == []
        assert proving.report(delivery_id, archive.transactions[1]) is not None
        proving.after(0.1)
    assert proving.proof(delivery_id) == COMMITTED


@pytest.mark.requirement("SRS-DLV-104")
def test_a_peer_without_commitment_is_read_back(node):
    with serving_archive(archive_on_free_port(), [FIND]) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()
        archive.holds = holding(proving, delivery_id)
        proving.after(1.1)
    assert proving.proof(delivery_id) == FOUND


@pytest.mark.requirement("SRS-DLV-104")
@pytest.mark.parametrize(
    ("proof_by", "method", "names"),
    [
        ("auto", "query", "takes none of Storage Commitment Push Model and Study Root Query/Retrieve"),
        ("query", "query", "takes no Study Root Query/Retrieve Information Model - FIND"),
        ("storage-commitment", "storage-commitment", "takes no Storage Commitment Push Model"),
    ],
)
def test_a_peer_that_does_not_offer_it_is_said_to(node, proof_by, method, names):
    """An administrator reads which service to enable; the object counts as delivered, not as proved."""
    with serving_archive(archive_on_free_port(), ["1.2.840.10008.1.1"]) as archive:
        proving = proving_at(node, archive, proof=proof_by)
        delivery_id = proving.delivered()
        proving.after(1.1)
    assert proving.proof(delivery_id) == ("DELIVERED", "unavailable", method)
    assert names in proving.delivery(delivery_id).proof_reason


@pytest.mark.requirement("SRS-DLV-104")
@pytest.mark.parametrize(
    ("status", "ends"), [(0x0123, FOUND), (0x0124, FOUND), (0x0110, ("DELIVERED", "asked", "storage-commitment"))]
)
def test_a_request_that_is_declined_is_replaced_by_a_query_unless_it_may_pass(node, status, ends):
    with serving_archive(archive_on_free_port(request_status=status)) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()
        archive.holds = holding(proving, delivery_id)
        proving.after(1.1)
        assert proving.proof(delivery_id)[:2] == ends[:2]
        assert (proving.proof(delivery_id) == FOUND) == (ends == FOUND)
        if ends != FOUND:
            archive.request_status = 0
            proving.after(300)
            assert proving.proof(delivery_id) == COMMITTED


@pytest.mark.requirement("SRS-DLV-102")
@pytest.mark.parametrize("other", ["class", "study"])
def test_a_query_that_finds_something_else_under_the_uid_raises_it(node, archive, other):
    """The report of somebody else's study must not pass for ours."""
    proving = proving_at(node, archive, proof="query")
    delivery_id = proving.delivered()
    ((uid, (sop_class_uid, study)),) = holding(proving, delivery_id).items()
    archive.holds = {uid: (ComprehensiveSRStorage, study) if other == "class" else (sop_class_uid, generate_uid())}
    proving.after(1.1)
    assert proving.proof(delivery_id) == ("FAILED", "failed", "query")
    assert f"another {'SOP class' if other == 'class' else 'study'}" in proving.delivery(delivery_id).reason


@pytest.mark.requirement("SRS-DLV-103")
def test_a_query_that_finds_nothing_is_repeated_before_the_object_goes_again(node, archive):
    """An archive files minutes after its answer when it is busy."""
    proving = proving_at(node, archive, proof="query")
    late, lost = proving.delivered(), proving.delivered()
    proving.after(1.1)
    assert proving.proof(late) == proving.proof(lost) == ("DELIVERED", "asked", "query")
    assert "does not find the object" in proving.job("prove:pacs", lost).reason
    archive.holds = holding(proving, late)
    proving.after(FILED_WITHIN_S)
    assert proving.proof(late) == FOUND
    assert (proving.delivery(lost).state, proving.delivery(lost).resends) == ("SCHEDULED", 1)


@pytest.mark.requirement("SRS-DLV-104")
def test_a_query_answered_without_the_sop_class_proves_nothing(node, archive):
    """What was dropped and what was kept look alike then."""
    archive.tells_class = False
    proving = proving_at(node, archive, proof="query")
    delivery_id = proving.delivered()
    archive.holds = holding(proving, delivery_id)
    proving.after(FILED_WITHIN_S + 1)
    assert proving.proof(delivery_id) == ("DELIVERED", "unavailable", "query")
    assert "does not tell the SOP class" in proving.delivery(delivery_id).proof_reason


@pytest.mark.requirement("SRS-DLV-105")
def test_a_peer_that_is_down_is_asked_when_it_is_back(node):
    """The proof of a week's reports must not be lost to a night's maintenance."""
    archive = archive_on_free_port()
    proving = proving_at(node, archive)
    delivery_id = proving.delivered()
    proving.after(1.1)
    assert proving.proof(delivery_id) == ("DELIVERED", "asked", "storage-commitment")
    assert "connection refused" in proving.job("prove:pacs", delivery_id).reason
    with serving_archive(archive):
        proving.after(300)
    assert proving.proof(delivery_id) == COMMITTED


@pytest.mark.requirement("SRS-DLV-105")
def test_a_peer_that_stays_away_leaves_the_delivery_as_it_is(node):
    proving = Proving(node, archive_on_free_port().destination(max_attempts=2))
    delivery_id = proving.delivered()
    for _ in range(2):
        proving.after(300)
    state, proved, _ = proving.proof(delivery_id)
    assert (state, proved) == ("DELIVERED", "unavailable")
    assert "not found out after 2 tries: pacs: PACS at 127.0.0.1" in proving.delivery(delivery_id).proof_reason


@pytest.mark.requirement("SRS-DLV-105")
def test_a_peer_that_dies_in_the_middle_is_asked_for_the_rest_later(node):
    """What it took before counts; what it was not asked about is asked later."""
    with serving_archive(archive_on_free_port(report="silent", aborts_at=2)) as archive:
        proving = proving_at(node, archive, proof="storage-commitment")
        made = [proving.delivered() for _ in range(4)]
        proving.prover.linger_s = 0.0
        proving.after(1.1)
        assert [proving.proof(item)[1] for item in made] == ["asked"] * 4
        assert len(archive.requests) == 2
        reasons = [proving.job("prove:pacs", item).reason for item in made]
        assert "broke the association off during N-ACTION" in reasons[1]
        ended = re.compile("closed the association before N-ACTION|broke the association off during N-ACTION")
        assert all(ended.search(reason) for reason in reasons[2:]), reasons  # as soon as the end is noticed
        assert proving.report(made[0], archive.transactions[0]) is not None
        archive.report = None
        proving.prover.linger_s = 20.0
        proving.after(300)
    assert {proving.proof(item) for item in made} == {COMMITTED}


@pytest.mark.requirement("SRS-DLV-105")
def test_while_a_peer_is_down_its_proofs_rest(node):
    """Each waiting proof would else cost a connection's time-out, again and again."""
    proving = Proving(node, archive_on_free_port().destination())
    proving.delivered()
    proving.after(1.1)
    assert proving.prover.rest.failures == 1
    proving.delivered()
    proving.now += timedelta(seconds=2)
    proving.prover.rest = type(proving.prover.rest)(failures=1, until=float("inf"))
    with node.database.read() as connection:
        before = jobs.counts(connection)
    assert proving.worker.run_once() == 0
    with node.database.read() as connection:
        assert jobs.counts(connection) == before


@pytest.mark.requirement("SRS-DLV-105")
@pytest.mark.parametrize("does_report", [True, False])
def test_a_proof_survives_the_death_of_its_process_at_any_step(node, monkeypatch, does_report):
    """Between writing the transaction down and the peer's answer nobody knows what the peer heard."""
    with serving_archive(archive_on_free_port(report="silent")) as archive:
        proving = proving_at(node, archive)
        delivery_id = proving.delivered()

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(proof.Prover, "_linger", die)
            with pytest.raises(KeyboardInterrupt):
                proving.after(1.1)
        (left,) = proving.transactions(delivery_id)
        assert left.state == commitments.ASKING
        if does_report:
            assert proving.report(delivery_id, left.transaction_uid) is not None
        archive.report = None
        with node.database.begin() as connection:
            jobs.release_owner(connection, "deliver:1:", now=proving.now)
        proving.after(1.1)
        assert proving.proof(delivery_id) == COMMITTED
        assert len(archive.transactions) == (1 if does_report else 2)


@pytest.mark.requirement("SRS-DLV-106")
def test_a_newer_revision_does_not_disturb_the_proof_of_an_older_one(node):
    """What the archive took stays in the study: it is proved like any other."""
    with serving_archive(archive_on_free_port(report="silent")) as archive:
        proving = proving_at(node, archive)
        proving.prover.linger_s = 0.0
        first = proving.delivered()
        proving.after(1.1)
        second = proving.delivered(proving.delivery(first).study_instance_uid)
        assert proving.report(first, archive.transactions[0]) is not None
        archive.report = None
        proving.prover.linger_s = 1.0
        proving.after(1.1)
    assert proving.proof(first) == proving.proof(second) == COMMITTED


@pytest.mark.requirement("SRS-DLV-106")
def test_reports_about_an_earlier_sending_change_nothing(node):
    """The answer to yesterday's question must not have today's object sent again."""
    with serving_archive(archive_on_free_port(report="silent")) as archive:
        proving = proving_at(node, archive)
        proving.prover.linger_s = 0.0
        delivery_id = proving.delivered()
        proving.after(1.1)
        proving.deliver(delivery_id)
        assert proving.report(delivery_id, archive.transactions[0], 0x0112) is None
        assert proving.report(delivery_id, "2.25.1") is None, "nobody asked under this"
        archive.report = None
        proving.prover.linger_s = 1.0
        proving.after(1.1)
    assert proving.proof(delivery_id) == COMMITTED


@pytest.mark.requirement("SRS-DLV-101")
def test_what_is_proved_is_what_was_sent(node):
    """A report that went in a lesser SR class is asked for in that class."""
    with serving_archive(archive_on_free_port()) as archive:
        proving = proving_at(node, archive)
        (delivery_id,) = node.plan("pacs")
        twin = node.shelf.twin(node.stored(delivery_id), ComprehensiveSRStorage)
        proving.deliver(delivery_id)
        proving.after(1.1)
    (item,) = archive.requests[0].ReferencedSOPSequence
    assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (
        ComprehensiveSRStorage,
        twin.sop_instance_uid,
    )
    assert proving.proof(delivery_id) == COMMITTED


@pytest.mark.requirement("SRS-DLV-104")
@pytest.mark.parametrize(
    "destination",
    [
        Destination(name="pacs", kind="c-store", ae_title="PACS", host="127.0.0.1", commit=False),
        Destination(name="pacs", kind="folder", path="out"),
    ],
)
def test_what_need_not_or_cannot_be_proved_is_not_asked_for(node, destination):
    (delivery_id,) = node.plan("pacs")
    with node.database.begin() as connection:
        proof.plan(connection, delivery_id, destination, now=Proving(node, destination).now)
        assert jobs.get(connection, "prove:pacs", str(delivery_id)) is None
    assert node.delivery(delivery_id).proof == ""


@pytest.mark.requirement("SRS-DLV-104")
def test_proofs_of_a_destination_that_is_gone_are_settled(node):
    """A job that nobody works on would say "asked" for ever."""
    proving = Proving(node, archive_on_free_port().destination())
    delivery_id = proving.delivered()
    unserved = proof.Unserved(node.database, node.settings())
    assert unserved.kinds() == ("prove:pacs",)
    with node.database.begin() as connection:
        job = jobs.get(connection, "prove:pacs", str(delivery_id))
        for _, settle in unserved.handle([job]):
            settle(connection)
    assert proving.proof(delivery_id)[:2] == ("DELIVERED", "unavailable")
    assert "node.toml has no such destination" in proving.delivery(delivery_id).proof_reason


@pytest.mark.requirement("SRS-DLV-107")
def test_no_place_or_patient_is_named_in_what_a_person_reads(node, archive):
    """Reasons go into logs and onto pages."""
    archive.find_status = 0xC001
    proving = proving_at(node, archive, proof="query")
    (delivery_id,) = node.plan("pacs", patient_name="ZZPLANTED^NAME")
    proving.deliver(delivery_id)
    proving.after(FILED_WITHIN_S + 1)
    found = proving.delivery(delivery_id)
    assert found.proof == "unavailable"
    assert "answered C-FIND with 0xC001" in found.proof_reason
    assert "ZZPLANTED" not in found.proof_reason
    assert found.study_instance_uid not in found.proof_reason


@pytest.mark.requirement("SRS-DLV-101")
def test_one_worker_for_each_destination_that_proves(node):
    """And one that reports to those who asked the node."""
    archive = archive_on_free_port()
    folder = Destination(name="folder", kind="folder", path="out")
    workers = proof.make_workers(node.settings(archive.destination(), folder), node.database, node.files)
    assert [worker.kinds for worker in workers] == [("commitment-report",), ("prove:pacs",)]
    assert all(worker.owner.startswith("deliver:") for worker in workers), "the supervisor gives their leases back"
