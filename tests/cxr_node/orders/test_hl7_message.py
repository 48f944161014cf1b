"""Orders as RIS and order placers write them, read by stated rules; what cannot be read is named with its place."""

import pytest

from cxr_node.findings import OrderedPriority
from cxr_node.orders.hl7_acknowledgement import acknowledge
from cxr_node.orders.hl7_message import Rejection, decode, read_orders
from storage.orders import ACTIVE, CANCELED
from tests.cxr_node.orders.messages import NOON, OMI, ORM, message, orm


def read(body: bytes):
    decoded = decode(body)
    if isinstance(decoded, Rejection):
        return decoded
    return read_orders(*decoded)


def one(body: bytes):
    found = read(body)
    assert not isinstance(found, Rejection), found
    (order,) = found
    return order


@pytest.mark.requirement("SRS-ORD-001")
def test_an_orm_of_ihe_is_read_whole():
    """Accession in OBR-18, requested procedure in OBR-19, Study Instance UID in ZDS-1 (IHE RAD TF-2 4.4)."""
    order = one(message(*ORM))
    assert (order.accession_number, order.patient_id, order.issuer_of_patient_id) == ("A1", "P1", "HOSP")
    assert (order.placer_order_number, order.filler_order_number) == ("PL1", "F1")
    assert (order.requested_procedure_id, order.study_instance_uid) == ("RP1", "1.2.3")
    assert (order.priority, order.priority_text, order.status) == ("STAT", "S", ACTIVE)
    assert order.order_key == "RIS|HOSP|PL1^RIS"


@pytest.mark.requirement("SRS-ORD-001")
@pytest.mark.parametrize("kind", ["OMI^O23^OMI_O23", "OMG^O19^OMG_O19"])
def test_an_omi_is_read_whole(kind):
    """Accession, procedure and study in IPC, priority in TQ1."""
    order = one(message(*OMI, kind=kind))
    assert (order.accession_number, order.requested_procedure_id, order.study_instance_uid) == ("A7", "RP7", "1.2.7")
    assert (order.priority, order.priority_text) == ("HIGH", "A")


@pytest.mark.requirement("SRS-ORD-002")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S", "STAT"),
        ("A", "HIGH"),
        ("P", "HIGH"),
        ("C", "HIGH"),
        ("T", "MEDIUM"),
        ("R", "ROUTINE"),
        ("s", "STAT"),
        ("STAT", "STAT"),
        ("High", "HIGH"),
        ("MEDIUM", "MEDIUM"),
        ("LOW", "LOW"),
        ("ASAP", "HIGH"),
        ("PRN", ""),
        ("", ""),
    ],
)
def test_a_priority_is_read_by_the_table(text, expected):
    """A code that is not known orders nothing: a guess would send somebody to the wrong study first."""
    assert one(orm(obr5=text)).priority == expected


@pytest.mark.requirement("SRS-ORD-002")
@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({"tq1": "S", "obr27": "R", "orc7": "R", "obr5": "R"}, "STAT"),
        ({"tq1": "R", "obr27": "S"}, "ROUTINE"),
        ({"obr27": "A", "orc7": "S"}, "HIGH"),
        ({"orc7": "T", "obr5": "S"}, "MEDIUM"),
        ({"obr5": "S"}, "STAT"),
        ({"tq1": "PRN", "obr5": "S"}, "STAT"),
        ({"tq1": "R~S"}, "STAT"),
    ],
)
def test_the_first_place_that_holds_a_known_priority_counts(places, expected):
    """The newer field over the older, which interfaces fill with a default."""
    assert one(orm(**places)).priority == expected


@pytest.mark.requirement("SRS-ORD-001")
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"obr18": "A1", "obr20": "SPS1", "orc3": "F1"}, "A1"),
        ({"obr20": "SPS1", "orc3": "F1^RIS"}, "F1"),
        ({"obr18": '""', "orc3": "F1"}, "F1"),
        ({"obr18": "A\\T\\1", "orc3": "F1"}, "A&1"),
        ({"obr20": "SPS1"}, ""),
    ],
)
def test_the_accession_number_is_looked_for_where_ihe_puts_it(fields, expected):
    """OBR-20 is the Scheduled Procedure Step ID: taken for an accession number it would raise a stranger."""
    assert one(orm(**{"obr18": "", "orc3": "", **fields})).accession_number == expected


@pytest.mark.requirement("SRS-ORD-003")
@pytest.mark.parametrize(
    ("control", "status5", "expected"),
    [("NW", "", ACTIVE), ("XO", "", ACTIVE), ("SC", "IP", ACTIVE), ("SC", "CA", CANCELED), ("CA", "", CANCELED),
     ("DC", "", CANCELED), ("OC", "", CANCELED)],
)  # fmt: skip
def test_the_control_code_says_whether_the_order_stands(control, status5, expected):
    """ORC-1, and for a status change ORC-5."""
    assert one(orm(orc1=control, orc5=status5)).status == expected


@pytest.mark.requirement("SRS-ORD-001")
def test_the_medical_record_number_is_chosen_among_a_patients_ids():
    """The social security number, first in the list, is in no image."""
    order = one(orm(pid3="999^^^GOV^SS~P1^^^HOSP^MR"))
    assert (order.patient_id, order.issuer_of_patient_id) == ("P1", "HOSP")


@pytest.mark.requirement("SRS-ORD-001")
def test_several_orders_of_a_message_are_each_read():
    """A ZDS ends its group; two procedures under one placer number are two orders."""
    body = message(
        ORM[0],
        "ORC|NW|PL1",
        "OBR|1|PL1|||S|||||||||||||A1||RP1",
        "OBR|2|PL1|||R|||||||||||||A1||RP2",
        "ZDS|1.2.3",
        "ORC|NW|PL2",
        "OBR|1|PL2|||R|||||||||||||A2||RP3",
        "ZDS|1.2.4",
    )
    found = read(body)
    assert [(item.order_key, item.priority, item.study_instance_uid) for item in found] == [
        ("RIS|HOSP|PL1", "STAT", "1.2.3"),
        ("RIS|HOSP|PL1#2", "ROUTINE", "1.2.3"),
        ("RIS|HOSP|PL2", "ROUTINE", "1.2.4"),
    ]


@pytest.mark.requirement("SRS-ORD-004")
@pytest.mark.parametrize(
    ("charset", "encoding", "patient"),
    [
        ("", "ascii", "P1"),
        ("ASCII", "ascii", "P1"),
        ("8859/1", "latin-1", "PÄ1"),
        ("8859/5", "iso8859-5", "ПАЦ1"),
        ("UNICODE UTF-8", "utf-8", "山1"),
        ("", "utf-8", "山1"),
        ("", "latin-1", "PÄ1"),
        ("UNICODE UTF-8~8859/1", "utf-8", "Ж1"),
    ],
)
def test_the_character_set_of_msh_18_is_used(charset, encoding, patient):
    """A patient ID read wrong is another patient; without a declaration UTF-8 is tried first."""
    assert one(orm(pid3=patient, charset=charset, encoding=encoding)).patient_id == patient


@pytest.mark.requirement("SRS-ORD-005")
@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        (b"", "100", ("MSH", 0)),
        (b"PID|||P1\r", "100", ("MSH", 0)),
        (b"MSH", "100", ("MSH", 0)),
        (b"MSH|^^^^|RIS\r", "102", ("MSH", 2)),
        (b"MSH|^~\\&|RIS|||||", "200", ("MSH", 9)),
        (message(*ORM, kind="ADT^A01"), "200", ("MSH", 9)),
        (message(*ORM, kind="ORM^O02"), "201", ("MSH", 9)),
        (message(*ORM, control_id=""), "101", ("MSH", 10)),
        (message(*ORM, charset="ISO IR87"), "102", ("MSH", 18)),
        (message(ORM[0]), "100", ("ORC", 0)),
        (orm(orc1=""), "101", ("ORC", 1)),
        (orm(orc1="QQ"), "103", ("ORC", 1)),
        (message(ORM[0], "ORC|NW"), "101", ("ORC", 2)),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(body, code, place):
    """An interface analyst finds it without asking; no value of the message is repeated."""
    found = read(body)
    assert isinstance(found, Rejection)
    assert (found.code, (found.segment, found.field)) == (code, place)


@pytest.mark.requirement("SRS-ORD-005")
def test_any_bytes_are_read_or_rejected():
    """A listener that dies of one message serves nobody."""
    whole = message(*ORM)
    for end in range(len(whole)):
        for body in (whole[:end], whole[:end] + b"\xff\xfe\x00" + whole[end:]):
            found = read(body)
            assert found is not None
            assert isinstance(found, Rejection) or all(
                order.priority in ("", *map(str, OrderedPriority)) for order in found
            )


@pytest.mark.requirement("SRS-ORD-005")
@pytest.mark.parametrize("version", ["2.3.1", "2.5.1"])
def test_an_acknowledgement_answers_the_sender_in_its_version(version):
    """Applications change sides, the control id comes back, and ERR has the form of the version."""
    header, _ = decode(message(*ORM, version=version))
    lines = acknowledge(header, "AR", now=NOON, why=Rejection("103", "ORC-1 is none", "ORC", 1)).decode().split("\r")
    fields = lines[0].split("|")
    assert fields[2:6] == ["CXR_NODE", "NODE", "RIS", "HOSP"]
    assert (fields[8], fields[11]) == ("ACK^O01", version)
    assert lines[1] == "MSA|AR|C1"
    expected = (
        "ERR|ORC^1^1^103&Table value not found&HL70357"
        if version == "2.3.1"
        else "ERR||ORC^1^1|103^Table value not found^HL70357|E||||ORC-1 is none"
    )
    assert lines[2] == expected
