"""An order is durable before it is acknowledged, and its study raised."""

import pytest

from cxr_node.orders.desk import OrderDesk
from storage import audit, orders
from storage import messages as stored_messages
from storage.errors import StorageBusy
from storage.tables import messages
from tests.cxr_node.orders.messages import NOON, ORM, message, orm


@pytest.fixture
def desk(database, doorbell):
    return OrderDesk(database, doorbell, now=lambda: NOON)


def _code(acknowledgement: bytes) -> str:
    return acknowledgement.decode().split("\rMSA|")[1][:2]


def _kept(database):
    with database.read() as connection:
        return connection.execute(messages.select().order_by(messages.c.id)).all()


@pytest.mark.requirement("SRS-ORD-006")
def test_an_order_for_a_study_that_is_here_raises_it_at_once(desk, database, doorbell, add_study, priority):
    """The phone call that follows an urgent order finds the study on top; whoever shows the list is woken."""
    add_study()
    bell = doorbell.listen("worklist")
    try:
        assert _code(desk.take(message(*ORM), "10.0.0.1")) == "AA"
        assert bell.wait(30)
    finally:
        bell.close()
    assert priority() == ("STAT", "HL7 order from the RIS")
    (kept,) = _kept(database)
    assert (kept.direction, kept.peer, kept.control_id, kept.message_type) == ("in", "10.0.0.1", "C1", "ORM^O01")
    assert kept.body == message(*ORM).decode()
    assert kept.code == "AA"
    assert "MSA|AA|C1" in kept.acknowledgement


@pytest.mark.requirement("SRS-ORD-006")
def test_a_message_that_comes_again_changes_nothing_and_is_answered_alike(desk, database, add_study):
    """A sender that lost the answer sends again."""
    first = desk.take(message(*ORM), "10.0.0.1")
    add_study()
    assert desk.take(message(*ORM), "10.0.0.1") == first
    assert len(_kept(database)) == 1
    assert _code(desk.take(message(*ORM, control_id="C2"), "10.0.0.1")) == "AA"
    assert len(_kept(database)) == 2


@pytest.mark.requirement("SRS-ORD-006")
def test_what_cannot_be_kept_is_answered_ae_and_leaves_nothing(desk, database, add_study, priority, monkeypatch):
    """The sender tries again; an AA would be the end of the order."""
    add_study()

    def full(*_, **__):
        raise StorageBusy("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(stored_messages, "add", full)
        assert _code(desk.take(message(*ORM), "10.0.0.1")) == "AE"
    assert priority()[0] == "ROUTINE"
    assert _kept(database) == []
    assert _code(desk.take(message(*ORM), "10.0.0.1")) == "AA"
    assert priority()[0] == "STAT"


@pytest.mark.requirement("SRS-ORD-005")
def test_what_cannot_be_read_is_answered_ar_and_kept(desk, database):
    """Somebody will ask what was sent."""
    assert _code(desk.take(orm(orc1="QQ"), "10.0.0.1")) == "AR"
    (kept,) = _kept(database)
    assert kept.code == "AR"
    assert _code(desk.take(b"hello", "10.0.0.1")) == "AR"
    with database.read() as connection:
        assert orders.get(connection, "hl7", "RIS|HOSP|PL1") is None


@pytest.mark.requirement("SRS-ORD-007")
def test_another_patients_study_is_left_alone_and_that_is_told(desk, database, add_study, priority):
    """The accession number of a study that another hospital sent."""
    add_study(patient_id="P2")
    assert _code(desk.take(message(*ORM), "10.0.0.1")) == "AA"
    assert priority()[0] == "ROUTINE"
    with database.read() as connection:
        events = [item.event for item in audit.events(connection, study_instance_uid="1.2.3")]
    assert events == ["order_of_another_patient"]


@pytest.mark.requirement("SRS-ORD-003")
def test_a_cancellation_lowers_nothing(desk, add_study, priority):
    """The images are there, and somebody thought them urgent."""
    add_study()
    desk.take(orm(obr5="S"), "10.0.0.1")
    desk.take(orm(orc1="CA", obr5="R", control_id="C2"), "10.0.0.1")
    assert priority()[0] == "STAT"
    add_study("1.2.4")
    desk.take(orm(orc1="CA", obr5="S", control_id="C3"), "10.0.0.1")
    assert priority("1.2.4")[0] == "ROUTINE"


@pytest.mark.requirement("SRS-ORD-005")
def test_the_log_names_no_patient(desk, add_study, capsys):
    """A log goes to people who may not see names."""
    add_study(patient_id="P2")
    for body in (message(*ORM), orm(orc1="QQ", pid3="SECRET"), b"MSH|^~\\&|SECRET\rPID|||SECRET\r"):
        desk.take(body, "10.0.0.1")
    printed = capsys.readouterr()
    for word in ("SECRET", "DOE", "P1", "P2", "A1"):
        assert word not in printed.out.replace("PL1", "")
        assert word not in printed.err
