"""The Storage SCU against good, bad, slow, old and misconfigured PACS."""

import contextlib
import socket
import subprocess
import threading
import time
from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from cxr_node.deliver.association import RejectedPermanent, contexts_of
from cxr_node.deliver.c_store import KIND_CLASSES
from cxr_node.errors import AssociationRefused, DeliveryError, Disposition, NotNegotiated, Refused, Unreachable
from cxr_node.reporting import encode
from cxr_node.settings import Tls
from storage import results
from tests.cxr_node.deliver.conftest import ALL_CLASSES, Pacs, dataset_of, free_port, make_report, serving, storescp


@pytest.fixture
def stored(node):
    return node.stored(node.plan("pacs")[0])


@pytest.mark.requirement("SRS-DLV-003")
@pytest.mark.parametrize(
    ("status", "disposition"),
    [
        (0xA700, Disposition.RETRY),
        (0xA702, Disposition.RETRY),
        (0x0110, Disposition.RETRY),
        (0x0213, Disposition.RETRY),
        (0xA900, Disposition.FAIL),
        (0xC000, Disposition.FAIL),
        (0xC123, Disposition.FAIL),
        (0x0117, Disposition.FAIL),
        (0x0124, Disposition.FAIL),
    ],
)
def test_a_failure_status_decides_whether_a_second_try_makes_sense(node, pacs, stored, status, disposition):
    """A full disk passes; a dataset that the PACS cannot take will not get better."""
    pacs.answer = lambda received: status
    with pytest.raises(Refused, match=f"PACS at 127.0.0.1:{pacs.port} answered C-STORE with 0x{status:04X}") as caught:
        node.sender(pacs.destination()).send(stored)
    assert (caught.value.status, caught.value.disposition) == (status, disposition)


@pytest.mark.requirement("SRS-DLV-003")
@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_a_warning_is_a_delivery_and_its_status_is_kept(node, pacs, stored, status):
    """The PACS has the object: sending it again would change nothing."""
    pacs.answer = lambda received: status
    sent = node.sender(pacs.destination()).send(stored)
    assert sent.sop_instance_uid == stored.sop_instance_uid
    assert f"0x{status:04X}" in sent.reason


@pytest.mark.requirement("SRS-DLV-002")
@pytest.mark.parametrize(
    ("classes", "sent_as"),
    [
        ((EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage), Comprehensive3DSRStorage),
        ((EnhancedSRStorage, ComprehensiveSRStorage), ComprehensiveSRStorage),
        ((EnhancedSRStorage,), EnhancedSRStorage),
    ],
)
def test_the_richest_class_that_the_peer_takes_is_sent(node, stored, classes, sent_as):
    """Many PACS in use take no Comprehensive 3D SR."""
    with serving(Pacs(free_port()), classes) as pacs:
        sent = node.sender(pacs.destination()).send(stored)
    assert sent.sop_class_uid == pacs.received[0].sop_class_uid == sent_as
    assert sent.sop_instance_uid == pacs.received[0].sop_instance_uid
    assert (sent.sop_instance_uid == stored.sop_instance_uid) == (sent_as == Comprehensive3DSRStorage)


@pytest.mark.requirement("SRS-DLV-002")
def test_a_twin_is_durable_before_it_is_sent_and_is_the_same_for_ever(node):
    """A report rebuilt under one UID is dropped by a PACS that answers Success; under two UIDs it is read twice."""
    delivery_id = node.plan("pacs")[0]
    seen: list[str] = []

    def look(received):
        seen.append(node.delivery(delivery_id).sop_instance_uid)
        return 0xA700 if len(seen) == 1 else 0x0000

    with serving(Pacs(free_port(), answer=look), (ComprehensiveSRStorage,)) as pacs:
        with pytest.raises(Refused):
            node.sender(pacs.destination()).send(node.stored(delivery_id))
        sent = node.sender(pacs.destination()).send(node.stored(delivery_id))
    first, second = pacs.received
    assert first == second
    assert seen == [sent.sop_instance_uid] * 2
    kept = node.stored(delivery_id)
    assert kept.sop_class_uid == ComprehensiveSRStorage
    assert dataset_of(kept.path) == first.dataset


@pytest.mark.requirement("SRS-DLV-002")
def test_what_was_sent_once_is_sent_again_even_where_the_peer_learned_a_better_class(node):
    """The attempt that died after the peer's answer may have delivered it: two reports must not follow."""
    delivery_id = node.plan("pacs")[0]
    port = free_port()
    before = Pacs(port, answer=lambda received: 0xA700)
    with serving(before, (ComprehensiveSRStorage,)), pytest.raises(Refused):
        node.sender(before.destination()).send(node.stored(delivery_id))
    with serving(Pacs(port)) as after:
        node.sender(after.destination()).send(node.stored(delivery_id))
    assert after.received == before.received


@pytest.mark.requirement("SRS-DLV-002")
def test_two_destinations_get_the_class_each_takes_and_share_the_stored_twin(node):
    """A site has one old PACS and one new."""
    old_1, new, old_2 = node.plan("old-1", "new", "old-2")
    with (
        serving(Pacs(free_port()), (ComprehensiveSRStorage,)) as older,
        serving(Pacs(free_port())) as newer,
        serving(Pacs(free_port()), (ComprehensiveSRStorage, EnhancedSRStorage)) as other,
    ):
        node.sender(older.destination()).send(node.stored(old_1))
        node.sender(newer.destination()).send(node.stored(new))
        node.sender(other.destination()).send(node.stored(old_2))
    assert older.received == other.received != newer.received
    with node.database.read() as connection:
        assert len(results.objects(connection, node.delivery(new).result_id)) == 2


@pytest.mark.requirement("SRS-DLV-002")
def test_a_class_accepted_but_not_supported_is_followed_by_the_next(node, stored):
    """Some systems negotiate every class and refuse it with 0x0122 only when it comes."""
    refuse = {Comprehensive3DSRStorage: 0x0122}
    with serving(Pacs(free_port(), answer=lambda received: refuse.get(received.sop_class_uid, 0))) as pacs:
        sent = node.sender(pacs.destination()).send(stored)
    assert [item.sop_class_uid for item in pacs.received] == [Comprehensive3DSRStorage, ComprehensiveSRStorage]
    assert sent.sop_class_uid == ComprehensiveSRStorage


@pytest.mark.requirement("SRS-DLV-002")
@pytest.mark.parametrize("classes", [(EncapsulatedPDFStorage,), None])
def test_a_peer_that_takes_no_sr_class_is_told_apart_from_one_that_is_down(node, stored, classes):
    """Trying again would not help; a person has to enable a class there."""
    pacs = Pacs(free_port(), answer=lambda received: 0x0122)
    with (
        serving(pacs, classes or (Comprehensive3DSRStorage, EnhancedSRStorage)),
        pytest.raises(
            NotNegotiated,
            match="takes none of Comprehensive 3D SR, Comprehensive SR and Enhanced SR: ",
        ) as caught,
    ):
        node.sender(pacs.destination()).send(stored)
    assert caught.value.disposition is Disposition.FAIL


@pytest.mark.requirement("SRS-DLV-002")
def test_a_peer_of_implicit_vr_alone_gets_the_same_content(node, stored):
    """Implicit VR Little Endian is the one transfer syntax that every peer must take (PS3.5 10.1)."""
    with serving(Pacs(free_port()), syntaxes=(ImplicitVRLittleEndian,)) as pacs:
        for _ in range(2):
            node.sender(pacs.destination()).send(stored)
    first, second = pacs.received
    assert first == second
    assert first.transfer_syntax_uid == ImplicitVRLittleEndian
    assert first.dataset != dataset_of(stored.path)
    assert first.sop_instance_uid == stored.sop_instance_uid


@pytest.mark.requirement("SRS-DLV-004")
def test_a_wrong_called_ae_title_is_explained(node, pacs, stored):
    """The commonest mistake of a first set-up."""
    with pytest.raises(RejectedPermanent, match=f"127.0.0.1:{pacs.port} does not go by the AE title PAX") as caught:
        node.sender(pacs.destination(ae_title="PAX")).send(stored)
    assert caught.value.disposition is Disposition.RETRY


@pytest.mark.requirement("SRS-DLV-004")
def test_an_unknown_calling_ae_title_is_explained(node, stored):
    """The PACS must be told of the node, and by which name."""
    expected = "does not know the calling AE title CXR_NODE: add it"
    with serving(Pacs(free_port()), known_callers=["OTHER"]) as pacs, pytest.raises(RejectedPermanent, match=expected):
        node.sender(pacs.destination()).send(stored)


@pytest.mark.requirement("SRS-DLV-004")
def test_a_closed_port_is_explained(node, stored):
    destination = Pacs(free_port()).destination()
    with pytest.raises(Unreachable, match=f"pacs: PACS at 127.0.0.1:{destination.port}: connection refused"):
        node.sender(destination).send(stored)


@pytest.mark.requirement("SRS-DLV-004")
def test_a_host_name_that_does_not_resolve_is_explained(node, stored):
    destination = Pacs(free_port()).destination(host="no-such-host.invalid")
    with pytest.raises(Unreachable, match=r"no-such-host.invalid does not resolve"):
        node.sender(destination).send(stored)


@pytest.mark.requirement("SRS-DLV-004")
def test_a_peer_that_never_answers_costs_its_timeout_and_no_more(node, stored):
    """A hung PACS keeps its port open: the kernel accepts for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        destination = Pacs(silent.getsockname()[1]).destination(timeout_s=0.5)
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"did not answer within timeout_s = 0.5"):
            node.sender(destination).send(stored)
    assert time.monotonic() - started < 3


@pytest.mark.requirement("SRS-DLV-004")
def test_a_peer_that_hangs_up_is_explained(node, stored):
    """A web server, or a firewall, listens on the port by mistake."""
    with socket.create_server(("127.0.0.1", 0)) as rude:

        def hang_up() -> None:
            for _ in range(2):
                rude.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(Unreachable, match=r"closed the connection without an answer|connection reset"):
            node.sender(Pacs(rude.getsockname()[1]).destination()).send(stored)


@pytest.mark.requirement("SRS-DLV-007")
def test_small_packets_leave_at_once(node, pacs, stored):
    """Nagle's algorithm with delayed acknowledgement costs 40 ms an object."""
    line = node.sender(pacs.destination())._line
    association = line.associate(contexts_of(stored.classes), wanted=stored.classes)
    try:
        assert association.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    finally:
        association.release()


@pytest.mark.requirement("SRS-DLV-001")
@pytest.mark.peer("storescp")
def test_dcmtk_writes_the_dataset_that_was_stored(node, stored, tmp_path):
    """A peer that shares no code with the node."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    port = free_port()
    with storescp(port, "--bit-preserving", "--output-directory", str(inbox)):
        sent = node.sender(Pacs(port).destination()).send(stored)
    (file,) = inbox.iterdir()
    assert sent.sop_class_uid == Comprehensive3DSRStorage
    assert dataset_of(file) == dataset_of(stored.path)
    assert dcmread(file).SOPInstanceUID == stored.sop_instance_uid


@pytest.mark.requirement("SRS-DLV-004")
@pytest.mark.peer("storescp")
@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (("--refuse",), AssociationRefused, "refuses associations from CXR_NODE"),
        (("--abort-after",), Unreachable, "broke the association off"),
        (("--abort-during",), Unreachable, "broke the association off"),
        (("--sleep-during", "3"), Unreachable, "did not answer C-STORE within timeout_s = 1"),
    ],
)
def test_a_bad_pacs_is_met_again_later(node, stored, options, error, sentence):
    """Each of these happens while a PACS restarts or is overloaded."""
    port = free_port()
    # Long enough for a busy machine, unless the timeout itself is what is tested.
    sender = node.sender(Pacs(port).destination(timeout_s=1.0 if "--sleep-during" in options else 10.0))
    with storescp(port, *options):
        for _ in range(3):
            with pytest.raises(DeliveryError) as caught:
                sender.send(stored)
            assert caught.value.disposition is Disposition.RETRY
            if isinstance(caught.value, error):
                break
    if "--refuse" in options and isinstance(caught.value, Unreachable):
        return  # it hangs up right after its refusal: on a busy machine the connection is gone before it is read
    assert isinstance(caught.value, error)
    assert sentence in str(caught.value)


@pytest.mark.requirement("SRS-DLV-003")
@pytest.mark.peer("storescp")
def test_a_peer_that_answers_success_has_the_object_as_far_as_dicom_tells(node, stored):
    """storescp --ignore keeps nothing and answers Success: only storage commitment would show it."""
    port = free_port()
    with storescp(port, "--ignore"):
        assert node.sender(Pacs(port).destination()).send(stored).reason == ""


def _certificate(folder, name, *, signed_by=None, subject="127.0.0.1"):
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={subject}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    if signed_by is not None:
        command += ["-CA", str(folder / f"{signed_by}.pem"), "-CAkey", str(folder / f"{signed_by}.key")]
        command += ["-addext", f"subjectAltName=IP:{subject}", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.requirement("SRS-DLV-008")
@pytest.mark.peer("storescp", "openssl")
def test_tls_delivers_to_the_right_peer_only(node, stored, tmp_path):
    """Both sides show a certificate; one by another authority, or for another host, is not spoken to."""
    _certificate(tmp_path, "ca", subject="Site CA")
    _certificate(tmp_path, "other", subject="Other CA")
    _certificate(tmp_path, "pacs", signed_by="ca")
    _certificate(tmp_path, "node", signed_by="ca", subject="127.0.0.2")
    port = free_port()

    def tls(ca: str) -> Tls:
        files = {"certificate": "node.pem", "key": "node.key", "ca": f"{ca}.pem"}
        return Tls(**{name: str(tmp_path / file) for name, file in files.items()})

    options = ["+tls", str(tmp_path / "pacs.key"), str(tmp_path / "pacs.pem"), "+cf", str(tmp_path / "ca.pem")]
    with storescp(port, *options):
        sent = node.sender(Pacs(port).destination(tls=tls("ca"))).send(stored)
        assert sent.sop_instance_uid == stored.sop_instance_uid
        with pytest.raises(Unreachable, match="TLS certificate is not accepted"):
            node.sender(Pacs(port).destination(tls=tls("other"))).send(stored)
        with pytest.raises(Unreachable, match="TLS certificate is not accepted"):
            node.sender(Pacs(port).destination(tls=tls("ca"), host="localhost")).send(stored)
        with pytest.raises(Unreachable):
            node.sender(Pacs(port).destination(timeout_s=2)).send(stored)
    with pytest.raises(Unreachable, match=r"TLS files .* cannot be used"):
        node.sender(Pacs(port).destination(tls=tls("absent"))).send(stored)


def _object_of(node, kind, sop_class_uid):
    """A small object of that class on the shelf, planned for "pacs"."""
    planned = node.stored(node.plan("pacs")[0])
    dataset = make_report(generate_uid())
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class_uid
    location = node.files.write_object(dataset.SOPInstanceUID, encode(dataset))
    return replace(
        planned,
        kind=kind,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        location=location,
    )


@pytest.mark.requirement("SRS-DLV-115")
@pytest.mark.parametrize(
    ("kind", "sop_class_uid"),
    [(kind, uid) for kind, classes in KIND_CLASSES.items() if kind != "sr" for uid in classes],
)
def test_every_other_object_goes_in_its_own_class(node, kind, sop_class_uid):
    """Only a report can be said in a lesser class."""
    stored = _object_of(node, kind, sop_class_uid)
    with serving(Pacs(free_port()), (sop_class_uid, EnhancedSRStorage)) as pacs:
        sent = node.sender(pacs.destination()).send(stored)
    assert (sent.sop_class_uid, sent.sop_instance_uid) == (sop_class_uid, stored.sop_instance_uid)
    assert pacs.received[0].dataset == dataset_of(stored.path)


@pytest.mark.requirement("SRS-DLV-115")
def test_what_a_reader_said_is_never_sent_as_something_less(node):
    """A reader's statement refers to the report by UID: a twin of it would be a second statement."""
    stored = _object_of(node, "feedback:1", Comprehensive3DSRStorage)
    with (
        serving(Pacs(free_port()), (ComprehensiveSRStorage,)) as pacs,
        pytest.raises(NotNegotiated, match="takes no Comprehensive 3D SR: enable this SOP class there"),
    ):
        node.sender(pacs.destination()).send(stored)
    assert pacs.received == []


@pytest.mark.requirement("SRS-DLV-115")
def test_a_class_that_is_refused_is_named(node):
    stored = _object_of(node, "pdf", EncapsulatedPDFStorage)
    with (
        serving(Pacs(free_port())) as pacs,
        pytest.raises(NotNegotiated, match="takes no Encapsulated PDF: enable this SOP class there"),
    ):
        node.sender(pacs.destination()).send(stored)


@pytest.mark.requirement("SRS-DLV-002")
def test_a_lesser_class_is_no_failed_try(node):
    """The count of tries is what an administrator reads."""
    delivery_id = node.plan("pacs")[0]
    with serving(Pacs(free_port()), (EnhancedSRStorage,)) as pacs:
        node.sender(pacs.destination()).send(node.stored(delivery_id))
    assert node.delivery(delivery_id).attempts == 0


@contextlib.contextmanager
def _echoing(pacs, classes=ALL_CLASSES, *, status=0x0000, known_callers=()):
    """A PACS that answers C-ECHO, and nothing that is stored."""
    ae = AE(ae_title=pacs.ae_title)
    ae.require_called_aet = True
    ae.require_calling_aet = list(known_callers)
    for sop_class_uid in (*classes, Verification):
        ae.add_supported_context(sop_class_uid)
    server = ae.start_server(
        ("127.0.0.1", pacs.port), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda event: status)]
    )
    try:
        yield pacs
    finally:
        server.shutdown()


@pytest.mark.requirement("SRS-DLV-116")
def test_a_pacs_that_is_well_tests_so(node):
    with _echoing(Pacs(free_port()), (*ALL_CLASSES, EncapsulatedPDFStorage)) as pacs:
        assert node.sender(pacs.destination(objects=["sr", "pdf"])).test() == ""
    with _echoing(Pacs(free_port()), (EnhancedSRStorage,)) as pacs:
        assert node.sender(pacs.destination()).test() == "", "one SR class is enough"


@pytest.mark.requirement("SRS-DLV-116")
def test_a_test_names_the_class_that_is_refused(node):
    """The first object of a kind may come weeks after the set-up."""
    with _echoing(Pacs(free_port())) as pacs:
        said = node.sender(pacs.destination(objects=["sr", "sc"])).test()
        assert said.endswith("takes no Secondary Capture Image: enable this SOP class there (object sc)")
    with _echoing(Pacs(free_port()), ()) as pacs:
        said = node.sender(pacs.destination()).test()
        assert "takes none of Comprehensive 3D SR, Comprehensive SR and Enhanced SR" in said


@pytest.mark.requirement("SRS-DLV-116")
def test_a_test_explains_ae_titles_addresses_and_echo(node):
    """What goes wrong on the day of the set-up, each in a sentence that says what to change."""
    gone = Pacs(free_port())
    assert "connection refused, nothing listens there" in node.sender(gone.destination()).test()
    assert "no-such-host.invalid does not resolve" in node.sender(gone.destination(host="no-such-host.invalid")).test()
    with _echoing(Pacs(free_port())) as pacs:
        said = node.sender(pacs.destination(ae_title="PAX")).test()
        assert "does not go by the AE title PAX: correct ae_title" in said
    with _echoing(Pacs(free_port()), known_callers=["OTHER"]) as pacs:
        assert "does not know the calling AE title CXR_NODE: add it" in node.sender(pacs.destination()).test()
    with _echoing(Pacs(free_port()), status=0x0110) as pacs:
        assert "answered C-ECHO with 0x0110" in node.sender(pacs.destination()).test()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        destination = Pacs(silent.getsockname()[1]).destination(timeout_s=0.3)
        assert "did not answer within timeout_s = 0.3" in node.sender(destination).test()


@pytest.mark.requirement("SRS-DLV-116")
@pytest.mark.peer("storescp", "openssl")
def test_a_test_tells_which_side_speaks_tls(node, tmp_path):
    """One box unticked on either side; both look like a dead port otherwise."""
    _certificate(tmp_path, "ca", subject="Site CA")
    _certificate(tmp_path, "other", subject="Other CA")
    _certificate(tmp_path, "pacs", signed_by="ca")
    _certificate(tmp_path, "node", signed_by="ca", subject="127.0.0.2")
    _certificate(tmp_path, "rogue", signed_by="other", subject="127.0.0.2")

    def tls(ca="ca", own="node"):
        return Tls(
            certificate=str(tmp_path / f"{own}.pem"), key=str(tmp_path / f"{own}.key"), ca=str(tmp_path / f"{ca}.pem")
        )

    port = free_port()
    options = ["+tls", str(tmp_path / "pacs.key"), str(tmp_path / "pacs.pem"), "+cf", str(tmp_path / "ca.pem")]
    with storescp(port, *options):
        secured = Pacs(port)
        assert node.sender(secured.destination(tls=tls())).test() == ""
        assert "it speaks TLS: give the destination" in node.sender(secured.destination()).test()
        assert "its TLS certificate is not accepted" in node.sender(secured.destination(tls=tls("other"))).test()
        said = node.sender(secured.destination(tls=tls(own="rogue"))).test()
        assert "it does not accept the node's TLS certificate" in said
    with storescp(port):
        assert "does not speak TLS on this port" in node.sender(Pacs(port).destination(tls=tls())).test()
