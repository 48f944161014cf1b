"""STOW-RS against services that take, refuse, are full, are none, or want credentials; and their read-back."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from cxr_node.deliver.association import RejectedPermanent
from cxr_node.deliver.http import Busy
from cxr_node.deliver.proof_rules import FILED_WITHIN_S
from cxr_node.deliver.stow_rs import StowRs
from cxr_node.errors import DeliveryError, Disposition, NotNegotiated, Refused, Unreachable
from cxr_node.settings import Tls
from tests.cxr_node.deliver.conftest import dataset_of, free_port, storescp
from tests.cxr_node.deliver.proving import Proving
from tests.cxr_node.deliver.web import Response, Web, serving_web, store_answer


@pytest.fixture
def web():
    with serving_web(Web()) as running:
        yield running


@pytest.fixture
def stored(node):
    return node.stored(node.plan("web")[0])


def sender_to(node, web, **changes):
    destination = web.destination(**changes)
    return StowRs(destination, settings=node.settings(destination), shelf=node.shelf)


def send(node, web, stored, **changes):
    return sender_to(node, web, **changes).send(stored)


@pytest.mark.requirement("SRS-DLV-110")
def test_what_arrives_is_the_stored_file_byte_for_byte(node, web, stored):
    """multipart/related with one part of application/dicom."""
    sent = send(node, web, stored)
    assert (sent.sop_class_uid, sent.sop_instance_uid, sent.reason) == (
        stored.sop_class_uid,
        stored.sop_instance_uid,
        "",
    )
    (request,) = web.requests
    assert (request.method, request.path) == ("POST", "/dicom-web/studies")
    assert request.headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert request.headers["accept"] == "application/dicom+json"
    ((media_type, data),) = request.parts
    assert (media_type, data) == ("application/dicom", stored.path.read_bytes())
    assert "authorization" not in request.headers


@pytest.mark.requirement("SRS-DLV-111")
@pytest.mark.parametrize(
    ("reason", "disposition"),
    [
        (0xA700, Disposition.RETRY),
        (272, Disposition.RETRY),
        (0x0213, Disposition.RETRY),
        (0xA900, Disposition.FAIL),
        (0xC000, Disposition.FAIL),
        (0x0124, Disposition.FAIL),
    ],
)
@pytest.mark.parametrize("form", ["json", "xml"])
def test_a_failure_reason_means_what_the_status_of_c_store_means(node, web, stored, reason, disposition, form):
    """One language for both ways to the same archive; Orthanc writes 272 for 0x0110."""
    if form == "json":
        body, media_type = store_answer(failed=stored.sop_instance_uid, reason=reason), "application/dicom+json"
    else:
        media_type = "application/dicom+xml"
        body = (
            '<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
            '<DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">'
            f'<DicomAttribute tag="00081155" vr="UI"><Value number="1">{stored.sop_instance_uid}</Value>'
            "</DicomAttribute>"
            f'<DicomAttribute tag="00081197" vr="US"><Value number="1">{reason}</Value></DicomAttribute>'
            "</Item></DicomAttribute></NativeDicomModel>"
        ).encode()
    web.answer = lambda request: Response(409, body, media_type)
    with pytest.raises(Refused, match=f"answered STOW-RS with 0x{reason:04X}") as caught:
        send(node, web, stored)
    assert (caught.value.status, caught.value.disposition) == (reason, disposition)


@pytest.mark.requirement("SRS-DLV-111")
@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (202, lambda uid: store_answer(stored=uid, reason=0xB000), "stored with warning, reason 0xB000"),
        (409, lambda uid: store_answer(failed=uid, reason=0x0111), "failure reason 0x0111: it has the object already"),
        (202, lambda uid: b"", "answered 202 and does not say what became of the object"),
        (200, lambda uid: b"<html>fine</html>", ""),
        (200, lambda uid: f"[{store_answer(stored=uid).decode()}]".encode(), ""),
    ],
    ids=["warning", "duplicate", "no details", "no form of ours", "in a list"],
)
def test_a_warning_is_a_delivery_and_its_reason_is_kept(node, web, stored, status, body, reason):
    """The service has the object: sending it again would change nothing. Proof shows whether that is so."""
    web.answer = lambda request: Response(status, body(stored.sop_instance_uid))
    assert send(node, web, stored).reason == reason


@pytest.mark.requirement("SRS-DLV-111")
@pytest.mark.parametrize("takes", [Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, None])
def test_the_richest_class_that_the_service_takes_is_stored(node, web, takes):
    """HTTP knows no negotiation: the answer to each tells."""
    stored = node.stored(node.plan("web")[0])
    seen = []

    def answer(request):
        ((_, data),) = request.parts
        dataset = dcmread(BytesIO(data))
        seen.append(dataset.SOPClassUID)
        if dataset.SOPClassUID == takes:
            return Response(200, store_answer(stored=dataset.SOPInstanceUID))
        return Response(409, store_answer(failed=dataset.SOPInstanceUID, reason=0x0122))

    web.answer = answer
    if takes is None:
        with pytest.raises(NotNegotiated, match="takes none of Comprehensive 3D SR, Comprehensive SR and Enhanced SR"):
            send(node, web, stored)
        return
    sent = send(node, web, stored)
    assert sent.sop_class_uid == takes == seen[-1]
    kept = node.stored(stored.delivery_id)
    assert (kept.sop_class_uid, kept.sop_instance_uid) == (sent.sop_class_uid, sent.sop_instance_uid)
    assert node.delivery(stored.delivery_id).attempts == 0, "a lesser class is no failed try"


@pytest.mark.requirement("SRS-DLV-112")
@pytest.mark.parametrize(
    ("status", "error", "disposition", "sentence"),
    [
        (400, Refused, Disposition.FAIL, "cannot read the request"),
        (401, RejectedPermanent, Disposition.RETRY, "asks for credentials; check user and secret_file"),
        (403, RejectedPermanent, Disposition.RETRY, "does not allow this"),
        (404, Refused, Disposition.FAIL, "nothing is served at this address; check url"),
        (409, Refused, Disposition.FAIL, "it stored nothing"),
        (413, Refused, Disposition.FAIL, "larger than it takes"),
        (415, Refused, Disposition.FAIL, "does not take this kind of content"),
        (429, Busy, Disposition.RETRY, "which may pass"),
        (301, Refused, Disposition.FAIL, "a redirection, which is not followed"),
        (500, Busy, Disposition.RETRY, "which may pass"),
        (501, Refused, Disposition.FAIL, "no such service"),
        (503, Busy, Disposition.RETRY, "which may pass"),
    ],
)
def test_a_status_says_who_has_to_act(node, web, stored, status, error, disposition, sentence):
    """Credentials wait for a person, an overloaded server for time, and a wrong address for nobody."""
    web.answer = lambda request: Response(status, b"ZZPLANTED^NAME", "text/plain", {"Location": "http://192.0.2.1/"})
    with pytest.raises(DeliveryError, match=rf"^web: http://127.0.0.1:{web.port}/dicom-web ") as caught:
        send(node, web, stored)
    assert type(caught.value) is error
    assert caught.value.disposition is disposition
    assert sentence in str(caught.value)
    assert "ZZPLANTED" not in str(caught.value), "a body may quote a dataset"


@pytest.mark.requirement("SRS-DLV-112")
@pytest.mark.parametrize(("header", "expected"), [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None)])
def test_retry_after_is_understood(node, web, stored, header, expected):
    """A server that says when is not asked before."""
    web.answer = lambda request: Response(503, headers={"Retry-After": header})
    with pytest.raises(Busy) as caught:
        send(node, web, stored)
    assert caught.value.retry_after_s == expected


@pytest.mark.requirement("SRS-DLV-113")
@pytest.mark.parametrize(
    ("user", "secret", "expected"),
    [("node", "pa:ss\n", "Basic bm9kZTpwYTpzcw=="), ("", "tok-1\n", "Bearer tok-1"), ("", "", None)],
)
def test_credentials_come_from_a_file(node, web, stored, tmp_path, user, secret, expected):
    """Read at every request, so that a renewed one needs no restart."""
    file = tmp_path / "secret"
    file.write_text(secret)
    send(node, web, stored, user=user, secret_file=str(file))
    assert web.requests[0].headers.get("authorization") == expected


@pytest.mark.requirement("SRS-DLV-113")
@pytest.mark.parametrize("secret", [None, "two\nlines", "tök"])
def test_a_secret_that_cannot_be_used_is_named_and_never_shown(node, web, stored, tmp_path, secret):
    file = tmp_path / "secret"
    if secret is not None:
        file.write_text(secret)
    with pytest.raises(Unreachable, match=f"secret_file {file}") as caught:
        send(node, web, stored, secret_file=str(file))
    assert secret is None or secret not in str(caught.value)
    assert web.requests == []


@pytest.mark.requirement("SRS-DLV-112")
def test_a_service_that_is_down_slow_or_dies_in_the_middle_is_met_again(node, stored):
    """Nothing is lost: each of these is tried again."""
    gone = Web(free_port())
    with pytest.raises(Unreachable, match="connection refused, nothing listens there"):
        send(node, gone, stored)
    with (
        serving_web(Web(answer=lambda request: None)) as rude,
        pytest.raises(Unreachable, match="broke the connection"),
    ):
        send(node, rude, stored)
    with pytest.raises(Unreachable, match="does not resolve"):
        send(node, gone, stored, url="http://no-such-host.invalid/dicom-web")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"did not answer within timeout_s = 0.3"):
            send(node, Web(silent.getsockname()[1]), stored, timeout_s=0.3)
    assert time.monotonic() - started < 3


@pytest.mark.requirement("SRS-DLV-112")
def test_an_answer_that_never_ends_is_broken_off(node, stored):
    """A byte a moment keeps every time-out of the connection from firing."""
    with socket.create_server(("127.0.0.1", 0)) as slow:

        def drip() -> None:
            connection = slow.accept()[0]
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(200):
                    connection.sendall(b" ")
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(Unreachable, match="did not answer within"):
            send(node, Web(slow.getsockname()[1]), stored, timeout_s=0.2)
    assert time.monotonic() - started < 5


def certificate(folder, name, *, signed_by=None, subject="127.0.0.1"):
    key, pem = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={subject}"]
    command += ["-keyout", str(key), "-out", str(pem)]
    if signed_by is not None:
        command += ["-CA", str(folder / f"{signed_by}.pem"), "-CAkey", str(folder / f"{signed_by}.key")]
        command += ["-addext", f"subjectAltName=IP:{subject}", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key


@pytest.mark.requirement("SRS-DLV-113")
@pytest.mark.peer("openssl")
def test_https_speaks_to_the_right_service_only(node, stored, tmp_path):
    """The service shows a certificate of the site's authority, and asks for one of the node's."""
    certificate(tmp_path, "ca", subject="Site CA")
    certificate(tmp_path, "other", subject="Other CA")
    theirs = certificate(tmp_path, "web", signed_by="ca")
    pem, key = certificate(tmp_path, "node", signed_by="ca", subject="127.0.0.2")

    def tls(ca="ca", **files):
        return Tls(ca=str(tmp_path / f"{ca}.pem"), **files)

    ours = {"certificate": str(pem), "key": str(key)}
    with serving_web(Web(), theirs, tmp_path / "ca.pem") as web:
        assert send(node, web, stored, tls=tls(**ours)).reason == ""
        with pytest.raises(Unreachable, match="TLS certificate is not accepted"):
            send(node, web, stored, tls=tls("other", **ours))
        with pytest.raises(Unreachable, match=r"does not accept the node's TLS certificate|broke the connection|reset"):
            send(node, web, stored, tls=tls())
        with pytest.raises(Unreachable, match="try https"):
            send(node, web, stored, url=web.url.replace("https", "http"))
    with serving_web(Web()) as plain:
        sentence = sender_to(node, plain, url=plain.url.replace("http", "https"), tls=tls()).test()
    assert "does not speak TLS on this port" in sentence


@pytest.mark.requirement("SRS-DLV-114")
def test_a_service_that_is_well_tests_so_and_nothing_is_stored(node, web):
    assert sender_to(node, web).test() == ""
    (request,) = web.requests
    assert (request.method, request.path, request.query) == ("GET", "/dicom-web/studies", {"limit": "1"})


@pytest.mark.requirement("SRS-DLV-114")
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda request: Response(401), "answered QIDO-RS with 401: it asks for credentials"),
        (lambda request: Response(403), "answered QIDO-RS with 403: it does not allow this"),
        (lambda request: Response(503), "answered QIDO-RS with 503, which may pass"),
        (lambda request: Response(404), "answered with 404: no DICOMweb is served at this address"),
        (lambda request: Response(200, b"<html>", "text/html; charset=utf-8"), "answers a search with text/html"),
        (lambda request: None, "broke the connection off"),
    ],
    ids=["401", "403", "503", "404", "web page", "dead"],
)
def test_a_test_says_what_is_wrong_in_a_sentence(node, web, answer, sentence):
    """An administrator reads it before the first report is lost."""
    web.answer = answer
    said = sender_to(node, web).test()
    assert said.startswith(f"web: http://127.0.0.1:{web.port}/dicom-web")
    assert sentence in said


@pytest.mark.requirement("SRS-DLV-114")
def test_a_service_that_stores_and_does_not_search_is_well(node, web):
    """Some gateways take objects and nothing else."""
    web.answer = lambda request: (
        Response(200, headers={"Allow": "OPTIONS, POST"}) if request.method == "OPTIONS" else Response(405)
    )
    assert sender_to(node, web).test() == ""


@pytest.mark.requirement("SRS-DLV-114")
@pytest.mark.peer("storescp")
def test_a_dicom_port_given_as_an_address_is_explained(node):
    """104 and 8042 are easily mixed up."""
    port = free_port()
    with storescp(port):
        said = sender_to(node, Web(port)).test()
    assert "broke the connection off, or speaks no HTTP there" in said


@pytest.mark.requirement("SRS-DLV-104")
def test_what_was_stored_is_read_back(node, web):
    """The same proof as over an association."""
    proving = Proving(node, web.destination())
    delivery_id = proving.delivered()
    sent = node.stored(delivery_id)
    web.stored[sent.sop_instance_uid] = sent.path.read_bytes()
    proving.after(1.1)
    assert proving.proof(delivery_id) == ("COMMITTED", "proved", "query")
    (request,) = web.requests
    assert request.path.startswith(f"/dicom-web/studies/{proving.delivery(delivery_id).study_instance_uid}/series/")
    assert request.query["SOPInstanceUID"] == sent.sop_instance_uid
    assert dataset_of(sent.path)


@pytest.mark.requirement("SRS-DLV-102")
@pytest.mark.parametrize("other", ["class", "study"])
def test_a_service_that_kept_another_object_is_found_out(node, web, other):
    """Orthanc answers 200 to the second object of a UID too, and drops it."""
    proving = Proving(node, web.destination())
    delivery_id = proving.delivered()
    found = proving.delivery(delivery_id)
    element = {
        "00080016": {"vr": "UI", "Value": [ComprehensiveSRStorage if other == "class" else found.sop_class_uid]},
        "00080018": {"vr": "UI", "Value": [found.sop_instance_uid]},
        "0020000D": {"vr": "UI", "Value": ["1.2.3" if other == "study" else found.study_instance_uid]},
    }
    body = json.dumps([element]).encode()
    web.answer = lambda request: (
        Response(404) if other == "study" and "/series/" in request.path else Response(200, body)
    )
    proving.after(1.1)
    assert proving.proof(delivery_id) == ("FAILED", "failed", "query")
    assert f"another {'SOP class' if other == 'class' else 'study'}" in proving.delivery(delivery_id).reason


@pytest.mark.requirement("SRS-DLV-103")
def test_what_a_service_lost_goes_again(node, web):
    proving = Proving(node, web.destination())
    delivery_id = proving.delivered()
    proving.after(1.1)
    assert proving.proof(delivery_id) == ("DELIVERED", "asked", "query")
    proving.after(FILED_WITHIN_S)
    assert (proving.delivery(delivery_id).state, proving.delivery(delivery_id).resends) == ("SCHEDULED", 1)


@pytest.mark.requirement("SRS-DLV-104")
@pytest.mark.parametrize(
    ("answer", "proof", "reason"),
    [
        (lambda request: Response(501), "auto", "offers no search"),
        (lambda request: Response(200, b"<xml/>"), "auto", "in a form that the node does not read"),
        (None, "storage-commitment", "a stow-rs destination has no storage commitment"),
    ],
    ids=["no search", "not JSON", "commitment"],
)
def test_a_service_that_cannot_prove_is_said_to(node, web, answer, proof, reason):
    web.answer = answer
    proving = Proving(node, web.destination(proof=proof))
    delivery_id = proving.delivered()
    proving.after(FILED_WITHIN_S + 1)
    assert proving.proof(delivery_id)[:2] == ("DELIVERED", "unavailable")
    assert reason in proving.delivery(delivery_id).proof_reason


@pytest.mark.requirement("SRS-DLV-105")
def test_a_service_that_is_down_is_asked_when_it_is_back(node, web):
    proving = Proving(node, web.destination())
    delivery_id = proving.delivered()
    sent = node.stored(delivery_id)
    web.answer = lambda request: Response(503)
    proving.after(1.1)
    assert proving.proof(delivery_id)[:2] == ("DELIVERED", "asked")
    web.answer = None
    web.stored[sent.sop_instance_uid] = sent.path.read_bytes()
    proving.after(300)
    assert proving.proof(delivery_id)[0] == "COMMITTED"
