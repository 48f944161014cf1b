"""HL7: what is said to a RIS, how its answers are read, and that every word is kept."""

import ssl
import subprocess
from pathlib import Path

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_node.deliver import hl7_template
from cxr_node.deliver.hl7_ack import read_acknowledgement
from cxr_node.deliver.hl7_template import KNOWN, control_id, load_template, parse_template
from cxr_node.deliver.hl7_text import date, escape, time, xcn, xpn
from cxr_node.deliver.policy import NotAcknowledged
from cxr_node.errors import Disposition, Refused, SettingsError, Unreachable
from cxr_node.reporting import read_notice
from cxr_node.settings import Tls
from storage import messages
from tests.cxr_node.deliver.conftest import free_port
from tests.cxr_node.deliver.peers import Hl7Peer, ack, hl7_serving, make_notice, plan_notice

pytestmark = pytest.mark.requirement("SRS-DLV-202")

TEMPLATES = Path(hl7_template.__file__).parent / "templates"
MINIMAL = '[message]\ntype = "ORU^R01^ORU_R01"\n[[segment]]\nid = "PID"\n3 = "{patient_id}"\n'


def parsed(text: str) -> hl7.Message:
    return hl7.parse(text)


def sent_to(node, peer, notice=None, **changes):
    """Send a notice to the peer; return the delivery's id and what the sender answered."""
    delivery_id = plan_notice(node, "ris", notice or make_notice())
    return delivery_id, node.sender(peer.destination(**changes)).send(node.stored(delivery_id))


def kept(node, delivery_id):
    with node.database.read() as connection:
        return messages.of_delivery(connection, delivery_id)


def test_the_built_in_message_says_who_what_and_how_urgent():
    """A RIS finds the order by accession number or patient, and the urgency where HL7 has it, twice: TQ1-9 of today,
    OBR-27.6 of older systems."""
    message = parsed(load_template(None).render(make_notice()))
    head = message.segment("MSH")
    assert (str(head[9]), str(head[12]), str(head[18])) == ("ORU^R01^ORU_R01", "2.5.1", "UNICODE UTF-8")
    assert str(head[7]) == "20260101120000+0000"
    assert len(str(head[10])) == 20
    assert str(message.segment("PID")[3]) == "P1"
    assert str(message.segment("PID")[5]) == "DOE^JANE^^^^^L"
    assert str(message.segment("OBR")[18]) == "A1"
    assert str(message.segment("OBR")[27]) == "^^^^^A"
    assert str(message.segment("TQ1")[9]) == "A"


def test_every_observation_is_preliminary_and_none_says_that_disease_is_absent():
    """A study that is not flagged is not thereby normal, and no physician has looked at this."""
    for changes in ({}, {"flagged": False, "ai": "", "effective": "ROUTINE", "reason": "AI triage: not flagged"}):
        text = load_template(None).render(make_notice(**changes))
        for observation in parsed(text).segments("OBX"):
            assert str(observation[11]) == "P"
        words = text.lower()
        assert "negative" not in words
        assert "normal" not in words
        assert "%" not in text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"flagged": True}, "FLAGGED"),
        ({"flagged": True, "status": "failed"}, "FLAGGED"),
        ({"flagged": False}, "NOT_FLAGGED"),
        ({"flagged": False, "status": "not_analysed"}, "NOT_ANALYSED"),
        ({"flagged": False, "status": "failed"}, "FAILED"),
        ({"flagged": False, "status": "of a newer node"}, "NOT_ANALYSED"),
    ],
)
def test_a_study_that_was_not_analysed_or_failed_never_looks_like_one_without_findings(changes, code):
    """Silence, and failure, must not look like normal."""
    message = parsed(load_template(None).render(make_notice(**changes)))
    assert str(message.segments("OBX")[0][5]).startswith(f"{code}^")


@pytest.mark.parametrize(
    ("effective", "code"), [("STAT", "S"), ("HIGH", "A"), ("MEDIUM", "R"), ("ROUTINE", "R"), ("LOW", "R")]
)
def test_priorities_become_hl7_codes(effective, code):
    """Tables 0485 and 0027, as RIS and PACS read them."""
    message = parsed(load_template(None).render(make_notice(effective=effective)))
    assert str(message.segment("TQ1")[9]) == code


def test_the_order_update_raises_the_order_and_is_sent_for_raised_studies_only():
    """A RIS without ORU takes ORM^O01; what is as ordered needs no update."""
    template = load_template(TEMPLATES / "orm_o01.toml")
    message = parsed(template.render(make_notice(placer_order_number="PL1")))
    assert str(message.segment("ORC")[1]) == "XO"
    assert str(message.segment("ORC")[2]) == "PL1"
    assert str(message.segment("ORC")[7]) == "^^^^^A"
    assert template.leaves_out(make_notice()) == ""
    assert template.leaves_out(make_notice(ordered="STAT", effective="STAT"))


@given(st.text(max_size=40))
def test_no_value_can_begin_another_field_or_segment(text):
    """A patient's name holds whatever a clerk typed, and a hostile sender more."""
    field = escape(text)
    assert not set(field) & set("|^~&\r\n")
    rendered = load_template(None).render(make_notice(patient_id=text, reason=text, patient_name=text))
    assert [line[:3] for line in rendered.split("\r")[:-1]] == ["MSH", "PID", "OBR", "TQ1", *["OBX"] * 5]


def test_escapes_are_those_that_other_systems_undo():
    """Read back by a library that we did not write."""
    text = r"a|b^c&d~e\f"
    message = parsed(load_template(None).render(make_notice(patient_id=text)))
    assert message.unescape(str(message.segment("PID")[3])) == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DOE^JANE^A^Dr^Jr", "DOE^JANE^A^Jr^Dr^^L"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P"),
        ("=山田^太郎", "山田^太郎^^^^^L^I"),
        ("O&N^J", "O\\T\\N^J^^^^^L"),
        ("", ""),
        ("^^^^", ""),
    ],
)
def test_a_dicom_name_becomes_an_hl7_name(name, expected):
    """Prefix and suffix change places; each component group is a repetition that says what script it is in."""
    assert xpn(name) == expected


def test_names_dates_and_times_that_are_none_stay_empty():
    """A RIS refuses a message with a malformed date; it can do without the date."""
    assert xcn("Roe^Rick") == "^Roe^Rick"
    assert xcn("") == ""
    assert [date(value) for value in ("20260101", "2026", "1960-01-01", "")] == ["20260101", "2026", "", ""]
    assert time("20260101101530.123") == "20260101101530"
    assert time("2026-01-01T12:00:00+00:00") == "20260101120000+0000"
    assert time("yesterday") == ""


def test_a_study_time_in_an_odd_form_costs_the_time_only():
    """Old senders write 10:15:30; the date is still worth having."""
    message = parsed(load_template(None).render(make_notice(study_time="10:15:30")))
    assert str(message.segment("OBR")[7]) == "20260101"


@pytest.mark.requirement("SRS-DLV-203")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("{patient_id}", "{patient_idd}"), ["line 5", "segment 1 (PID), field 3", "{patient_idd}", "patient_id,"]),
        (("{patient_id}", "{patient_id|upper}"), ["line 5", "unknown form or map 'upper'", "xpn"]),
        (("{patient_id}", "{patient_id"), ["line 5", "brace"]),
        (("{patient_id}", "a|b"), ["no | and no line end"]),
        (('type = "ORU^R01^ORU_R01"', 'type = "ORU"'), ["message.type", "ORU^R01^ORU_R01", "'ORU'"]),
        (('"PID"', '"MSH"'), ["segment 1", "MSH is made of"]),
        (('"PID"', '"pid"'), ["segment 1", "expected a segment such as OBX, found 'pid'"]),
        (("3 =", "three ="), ["field numbers", "'three'"]),
        (("3 =", "0 ="), ["field numbers", "'0'"]),
        (("[message]", 'when = "sometimes"\n[message]'), ["when", "always", "flagged", "raised", "'sometimes'"]),
        (("[message]", "wen = 1\n[message]"), ["line 1", "wen", "unknown key"]),
        (("[message]", '[map.u]\nHIGH = "A"\n[message]\nsending_facility = "{effective|u}"'), ["map.u", "STAT"]),
        (("[message]", "[message"), ["is not valid TOML", "line 1"]),
        (('\n[[segment]]\nid = "PID"\n3 = "{patient_id}"', ""), ["expected at least one [[segment]]"]),
    ],
)
def test_a_slip_in_a_template_is_named_when_the_node_starts(change, expected):
    """A template that fails with the first flagged study fails when it matters."""
    with pytest.raises(SettingsError) as found:
        parse_template(MINIMAL.replace(*change), "site.toml")
    assert str(found.value).startswith("HL7 template site.toml")
    for words in expected:
        assert words in str(found.value)


@pytest.mark.requirement("SRS-DLV-203")
def test_a_template_that_is_missing_stops_the_start(node, tmp_path):
    """Named with its path, as node.toml has it."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read: No such file"):
        node.sender(Hl7Peer().destination(template=str(tmp_path / "nowhere.toml")))


@pytest.mark.requirement("SRS-DLV-203")
def test_every_placeholder_that_is_offered_can_be_filled():
    """The list in the error message must be true."""
    fields = "\n".join(f'{number} = "{{{name}}}"' for number, name in enumerate(KNOWN, start=1))
    template = parse_template(f'[message]\ntype = "ORU^R01"\n[[segment]]\nid = "ZAI"\n{fields}\n', "all")
    assert "{" not in template.render(make_notice())


def test_a_field_without_any_value_is_empty():
    """`^^^^^` or `P1^^^` tells nothing and trips strict parsers."""
    message = parsed(load_template(None).render(make_notice(patient_id="", referring_physician_name="")))
    assert str(message.segment("PID")[3]) == ""
    assert str(message.segment("OBR")[16]) == ""


def test_the_message_goes_out_and_both_sides_words_are_kept(node):
    """Who asks a year later what the RIS was told, and what it said, must find both."""
    with hl7_serving(Hl7Peer(answer=lambda message: ack(message, text="Gespeichert: Müller"))) as peer:
        delivery_id, sent = sent_to(node, peer)
    assert (sent.reason, sent.skipped) == ("", False)
    (row,) = kept(node, delivery_id)
    assert row.body == peer.received[0]
    assert "Gespeichert: Müller" in row.acknowledgement
    assert (row.direction, row.peer, row.code, row.message_type) == ("out", "ris", "AA", "ORU^R01^ORU_R01")
    assert row.control_id == control_id(make_notice())


@pytest.mark.parametrize("code", ["AA", "CA"])
def test_an_acceptance_in_either_mode_is_success(node, code):
    """Original and enhanced mode: the one has no CA, the other begins with it."""
    with hl7_serving(Hl7Peer(answer=lambda message: ack(message, code))) as peer:
        delivery_id, sent = sent_to(node, peer)
    assert (sent.reason, sent.skipped) == ("", False)
    assert [row.code for row in kept(node, delivery_id)] == [code]


@pytest.mark.requirement("SRS-DLV-204")
@pytest.mark.parametrize("code", ["AE", "CE"])
def test_an_application_error_is_tried_again_and_shows_codes_only(node, code):
    """ERR-8 and MSA-3 may quote the patient; the sentence goes into logs."""
    more = "ERR||PID^1^5|101^Required field missing^HL70357|E||||DOE JANE has no birth date\r"
    answer = lambda message: ack(message, code, more=more, text="DOE JANE")  # noqa: E731
    with hl7_serving(Hl7Peer(answer=answer)) as peer, pytest.raises(NotAcknowledged) as found:
        sent_to(node, peer)
    assert found.value.disposition is Disposition.RETRY
    assert f"answered {code}, application error, error 101 (required field missing)" in str(found.value)
    assert "DOE" not in str(found.value)


@pytest.mark.requirement("SRS-DLV-204")
@pytest.mark.parametrize("code", ["AR", "CR"])
def test_a_refused_message_is_a_dead_letter(node, code):
    """The same message would be refused again; somebody has to change the template or the RIS."""
    more = "ERR|||200^Unsupported message type^HL70357|E\r"
    with (
        hl7_serving(Hl7Peer(answer=lambda message: ack(message, code, more=more))) as peer,
        pytest.raises(Refused, match="message refused, error 200") as found,
    ):
        sent_to(node, peer)
    assert found.value.disposition is Disposition.FAIL


@pytest.mark.requirement("SRS-DLV-204")
def test_a_refusal_for_a_lock_or_an_internal_error_is_tried_again(node):
    """HL7 has AR also for what has nothing to do with the message."""
    more = "ERR|||207^Application internal error^HL70357|E\r"
    with (
        hl7_serving(Hl7Peer(answer=lambda message: ack(message, "AR", more=more))) as peer,
        pytest.raises(NotAcknowledged),
    ):
        sent_to(node, peer)


def test_an_older_error_segment_and_msa_6_are_read():
    """HL7 2.3: ERR-1 holds segment, sequence, field and code; MSA-6 the error condition."""
    text = "MSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.3\rMSA|AE|X|text|||207^Internal\rERR|PID^1^5^101&Required\r"
    said = read_acknowledgement(text)
    assert said is not None
    assert said.errors == ("207", "101")


@pytest.mark.parametrize("text", ["", "nonsense", "MSH|^~\\&|A\rPID|1\r", "MSH|^~\\&|A\rMSA|XX|1\r", "\x00\x01"])
def test_what_is_no_acknowledgement_is_none(text):
    """A port of something else answers anything."""
    assert read_acknowledgement(text) is None


@pytest.mark.requirement("SRS-DLV-204")
@pytest.mark.parametrize("pieces", [1, 3, 200])
def test_an_acknowledgement_may_come_in_pieces(node, pieces):
    """TCP keeps no message boundaries."""
    with hl7_serving(Hl7Peer(pieces=pieces)) as peer:
        delivery_id, sent = sent_to(node, peer)
    assert (sent.reason, sent.skipped) == ("", False)
    (row,) = kept(node, delivery_id)
    assert control_id(make_notice()) in row.acknowledgement, "whole, however it came"


@pytest.mark.requirement("SRS-DLV-204")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"answer": lambda message: ack(message, control_id="OTHER")}, "acknowledged another message"),
        ({"answer": lambda message: "MSH|^~\\&|A\rPID|1\r"}, "no acknowledgement"),
        ({"answer": lambda message: None}, "hung up without an acknowledgement"),
        ({"answer": lambda message: ""}, "did not acknowledge the message within timeout_s = 0.3"),
        ({"framed": False}, "something else than MLLP"),
    ],
)
def test_a_message_counts_as_there_only_when_its_own_acknowledgement_came(node, changes, expected):
    """Anything else is tried again: a flag that nobody took must not be shown as delivered."""
    with hl7_serving(Hl7Peer(**changes)) as peer, pytest.raises((Unreachable, NotAcknowledged), match=expected):
        sent_to(node, peer, timeout_s=0.3)


def test_what_is_sent_again_is_the_first_text_even_where_the_template_changed(node, tmp_path):
    """The receiver knows the message by its control ID: another text under it would be dropped or refused."""
    template = tmp_path / "site.toml"
    template.write_text(MINIMAL)
    with hl7_serving(Hl7Peer(answer=lambda message: None)) as peer:
        delivery_id = plan_notice(node, "ris", make_notice())
        with pytest.raises(Unreachable):
            node.sender(peer.destination(template=str(template))).send(node.stored(delivery_id))
        template.write_text(MINIMAL.replace("3 =", "2 ="))
        peer.answer = ack
        node.sender(peer.destination(template=str(template))).send(node.stored(delivery_id))
    assert peer.received[0] == peer.received[1]
    assert [row.code for row in kept(node, delivery_id)] == ["", "AA"]


def test_nothing_is_written_down_as_sent_where_no_connection_came_about(node):
    """The record tells what left the node."""
    delivery_id = plan_notice(node, "ris", make_notice())
    with pytest.raises(Unreachable, match="connection refused"):
        node.sender(Hl7Peer(free_port()).destination()).send(node.stored(delivery_id))
    assert kept(node, delivery_id) == []


@pytest.mark.requirement("SRS-DLV-205")
def test_a_dry_run_writes_down_what_would_be_sent_and_sends_nothing(node):
    """A site tries a template on real studies before its RIS sees one."""
    with hl7_serving(Hl7Peer()) as peer:
        delivery_id, sent = sent_to(node, peer, dry_run=True)
        assert (sent.reason, sent.skipped) == ("dry run: not sent", False)
        assert peer.received == []
        (row,) = kept(node, delivery_id)
        assert row.code == "DRY-RUN"
        notice = read_notice(node.stored(delivery_id).path.read_bytes())
        assert row.body == load_template(None).render(notice)


@pytest.mark.requirement("SRS-DLV-205")
def test_a_template_for_flagged_studies_leaves_the_others_out_and_says_so(node, tmp_path):
    """Not delivered and not failed: the site wanted none of these."""
    template = tmp_path / "site.toml"
    template.write_text('when = "flagged"\n' + MINIMAL)
    with hl7_serving(Hl7Peer()) as peer:
        _, sent = sent_to(node, peer, make_notice(flagged=False), template=str(template))
    assert sent.skipped
    assert "not flagged" in sent.reason
    assert peer.received == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


@pytest.mark.requirement("SRS-DLV-206")
def test_hl7_over_tls_speaks_to_verified_listeners_only(node, certificate, tmp_path):
    """A priority with a patient's name goes to the RIS and to nobody who listens in its place."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with hl7_serving(Hl7Peer(), context) as peer:
        sent_to(node, peer, tls=Tls(ca=str(certificate[0])))
        assert node.sender(peer.destination(tls=Tls(ca=str(certificate[0])))).test() == ""
        other = tmp_path / "other.pem"
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout {tmp_path / 'k'} -out {other}",
            shell=True,
            check=True,
            capture_output=True,
        )
        with pytest.raises(Unreachable, match="its TLS certificate is not accepted"):
            sent_to(node, peer, make_notice("1.2.4"), tls=Tls(ca=str(other)))
    assert len(peer.received) == 1
    with hl7_serving(Hl7Peer()) as plain:
        found = node.sender(plain.destination(tls=Tls(ca=str(certificate[0])), timeout_s=0.5)).test()
    assert "TLS" in found
