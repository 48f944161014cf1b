"""A name is bound to the certificate that its device showed, on the page where it is let in."""

from datetime import timedelta

import pytest

from cxr_node.settings import Caller, Receive, ServerTls, Tls
from cxr_node.worklist.web.admin.certificates import certificates
from storage import audit, callers
from storage.callers import Rejected
from tests.certificates import Authority

FINGERPRINT = "ab" * 32
LISTED = Caller(ae_title="CR_ROOM_1", hosts=("10.1.0.5",), certificate="cr1.hospital.example")


@pytest.fixture
def settings(settings):
    receive = Receive(tls=Tls(certificate="node.pem", key="node.key", ca="ca.pem"))
    return settings.model_copy(update={"caller": (LISTED,), "receive": receive})


@pytest.fixture
def rejected(database, clock):
    """A caller unknown, one with another certificate, one with none, and one that TLS turned away."""
    at = clock.now - timedelta(minutes=5)
    shown = f"{FINGERPRINT} (ct-new)"
    rows = [
        Rejected("CT_NEW", "CXR_NODE", "10.1.0.77", "calling_ae_title", 1, at, at, certificate=shown),
        Rejected("CR_ROOM_1", "CXR_NODE", "10.1.0.5", "certificate", 1, at, at, certificate=shown),
        Rejected("CR_ROOM_2", "CXR_NODE", "10.1.0.5", "certificate", 1, at, at),
        Rejected("", "", "10.1.0.9", "tls", 7, at, at, certificate="certificate not accepted: it has expired"),
    ]
    with database.begin() as connection:
        callers.note_rejected(connection, rows)
        return {row.calling_ae_title: row.id for row in callers.rejected(connection)}


@pytest.fixture
def admin(client, sign_in):
    """A client of somebody who may."""
    sign_in(client, "admin", "kim")
    return client


def allowed(database):
    with database.read() as connection:
        return [(item.ae_title, item.host, item.certificate) for item in callers.allowed(connection)]


@pytest.mark.requirement("SRS-TLS-014")
def test_the_page_says_which_certificate_was_shown_and_what_to_do(admin, rejected):
    """The administrator compares it with the one on the device."""
    page = admin.get("/admin/senders").text
    for sentence in (
        f"{FINGERPRINT} (ct-new)",
        "It showed another certificate than the one that this AE title is bound to.",
        "This AE title is bound to a certificate, and it showed none.",
        "TLS failed: certificate not accepted: it has expired.",
        "cr1.hospital.example",
    ):
        assert sentence in page
    for title, offered in (("CT_NEW", True), ("CR_ROOM_1", True), ("", False)):
        assert (f"/admin/senders/allow?rejected={rejected[title]}" in page) is offered


@pytest.mark.requirement("SRS-TLS-014")
def test_who_is_let_in_is_bound_to_the_certificate_that_it_showed(admin, database, rejected):
    """With the same click; an administrator may take it out, or write a name that outlives a renewal."""
    ask = admin.get("/admin/senders/allow", params={"rejected": rejected["CT_NEW"]}).text
    assert f'value="{FINGERPRINT}"' in ask
    form = {"ae_title": "CT_NEW", "host": "10.1.0.77", "certificate": FINGERPRINT.upper(), "rejected": "0"}
    assert admin.post("/admin/senders/allow", data=form).headers["location"] == "/admin/senders?said=allowed"
    assert allowed(database) == [("CT_NEW", "10.1.0.77", FINGERPRINT)]
    with database.read() as connection:
        (entry,) = audit.search(connection, audit.Wanted(event="caller_allowed"), limit=9)
        left = {row.calling_ae_title for row in callers.rejected(connection)}
    assert entry.detail == {"ae_title": "CT_NEW", "host": "10.1.0.77", "certificate": FINGERPRINT}
    assert "CT_NEW" not in left
    assert FINGERPRINT in admin.get("/admin/senders").text
    again = {"ae_title": "CR_ROOM_1", "host": "10.1.0.5", "certificate": "cr1-new.hospital.example"}
    assert admin.post("/api/callers/allowed", json=again).json()["certificate"] == "cr1-new.hospital.example"
    listed = admin.get("/api/callers").json()
    assert listed["node_toml"][0]["certificate"] == "cr1.hospital.example"
    assert {row["certificate"] for row in listed["allowed"]} == {FINGERPRINT, "cr1-new.hospital.example"}


@pytest.mark.requirement("SRS-TLS-014")
def test_what_can_be_no_certificate_is_refused(admin, database):
    """A SHA-1 fingerprint would keep the device out without a word."""
    form = {"ae_title": "CT", "host": "10.1.0.7", "certificate": "ab" * 20}
    answer = admin.post("/admin/senders/allow", data=form)
    assert answer.status_code == 422
    assert "64 hexadecimal digits" in answer.text
    assert admin.post("/api/callers/allowed", json=form).status_code == 400
    assert allowed(database) == []


@pytest.mark.requirement("SRS-TLS-014")
def test_without_tls_nobody_is_bound(database, clock, make_client, settings, sign_in):
    """It would lock out whom it is to let in."""
    client = make_client(settings.model_copy(update={"receive": Receive()}))
    sign_in(client, "admin", "kim")
    assert 'name="certificate"' not in client.get("/admin/senders/allow").text
    form = {"ae_title": "CT", "host": "10.1.0.7", "certificate": FINGERPRINT}
    assert "nobody can show a certificate" in client.post("/admin/senders/allow", data=form).text
    assert allowed(database) == []


@pytest.mark.requirement("SRS-TLS-015")
def test_the_health_page_knows_the_certificate_of_every_listener(settings, tmp_path):
    """A port whose certificate expires unseen is an outage on a Sunday."""
    authority = Authority(tmp_path)
    mutual, https = {}, {}
    for name in ("receive", "dicom", "hl7", "audit", "stow", "page"):
        issued = authority.issue(name)
        pair = {"certificate": str(issued.certificate), "key": str(issued.key)}
        mutual[name], https[name] = Tls(**pair), ServerTls(**pair)
    receive = settings.receive.model_copy(
        update={
            "tls": mutual["receive"],
            "dicomweb": settings.receive.dicomweb.model_copy(update={"tls": https["stow"]}),
        }
    )
    found = certificates(
        settings.model_copy(
            update={
                "receive": receive,
                "worklist": settings.worklist.model_copy(update={"tls": https["page"], "dicom_tls": mutual["dicom"]}),
                "orders": settings.orders.model_copy(update={"hl7_tls": mutual["hl7"]}),
                "audit": settings.audit.model_copy(update={"tls": mutual["audit"]}),
            }
        )
    )
    assert [item.key for item in found] == [
        "receive: certificate",
        "receive.dicomweb: certificate",
        "worklist: certificate",
        "worklist.dicom_tls: certificate",
        "orders.hl7_tls: certificate",
        "audit: certificate",
    ]
    assert all(item.expires_at is not None and not item.problem for item in found)
