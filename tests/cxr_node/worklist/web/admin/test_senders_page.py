"""Senders over page and API: let in, let out, dismiss, mute; and that nobody but an admin can."""

from datetime import timedelta

import pytest

from cxr_node.settings import Caller
from storage import associations, audit, callers, senders
from storage.associations import LOST, Association
from storage.callers import Rejected

HOSTILE = '<script>alert("x")</script>\u202e'


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"caller": (Caller(ae_title="CR_ROOM_1", hosts=("10.1.0.5",)),)})


@pytest.fixture
def rejected(database, clock):
    """Four callers that were turned away, each for another reason, and one from an address that is not its own."""
    at = clock.now - timedelta(minutes=5)
    rows = [
        Rejected("CT_NEW", "CXR_NODE", "10.1.0.77", "calling_ae_title", 41, at, at),
        Rejected("CR_ROOM_1", "CXR_NODE", "10.9.9.9", "calling_ae_title", 1, at, at),
        Rejected("DX_ER", "CXRNODE", "10.1.0.6", "called_ae_title", 2, at, at),
        Rejected("PACS", "CXR_NODE", "10.1.0.2", "per_caller_associations", 3, at, at),
        Rejected("PACS_2", "CXR_NODE", "10.1.0.3", "maximum_associations", 3, at, at),
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
    """Return who was let in by an admin."""
    with database.read() as connection:
        return [(item.ae_title, item.host, item.created_by) for item in callers.allowed(connection)]


@pytest.mark.requirement("SRS-ADM-103")
def test_a_caller_that_was_turned_away_is_let_in_after_a_second_look(admin, database, rejected):
    """One click too many must not open the door: the page that asks shows title and address."""
    page = admin.get("/admin/senders").text
    assert f"/admin/senders/allow?rejected={rejected['CT_NEW']}" in page
    ask = admin.get("/admin/senders/allow", params={"rejected": rejected["CT_NEW"]}).text
    assert 'value="CT_NEW"' in ask
    assert 'value="10.1.0.77"' in ask
    assert allowed(database) == []
    form = {"ae_title": "CT_NEW", "host": "10.1.0.77", "rejected": str(rejected["CT_NEW"])}
    answer = admin.post("/admin/senders/allow", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/senders?said=allowed")
    assert allowed(database) == [("CT_NEW", "10.1.0.77", "kim")]
    page = admin.get("/admin/senders?said=allowed").text
    assert "It may send now" in page
    assert f"rejected={rejected['CT_NEW']}" not in page
    assert "Revoke<" in page
    gone = admin.get("/admin/senders/allow", params={"rejected": rejected["CT_NEW"]})
    assert gone.status_code == 404


@pytest.mark.requirement("SRS-ADM-103")
def test_a_refusal_that_letting_in_does_not_mend_says_what_does(admin, rejected):
    """A button that does not help is pressed three times before somebody calls."""
    page = admin.get("/admin/senders").text
    assert page.count("/admin/senders/allow?rejected=") == 2
    for sentence in (
        "It calls CXRNODE; this node is CXR_NODE.",
        "receive.ae_title in node.toml",
        "It held 16 associations of a process already.",
        "All 64 associations of a process were taken.",
        "This AE title may send, but not from this address.",
        "Neither node.toml nor this page lets it send.",
    ):
        assert sentence in page


@pytest.mark.requirement("SRS-ADM-103")
@pytest.mark.parametrize(
    ("title", "host", "status", "said"),
    [
        ("CT", "10.1.0.5", 303, ("CT", "10.1.0.5")),
        (" CT ", "10.1.7.9/16", 303, ("CT", "10.1.0.0/16")),
        ("CT", "::ffff:10.1.0.5", 303, ("CT", "10.1.0.5")),
        ("CT", "fe80::1%eth0", 303, ("CT", "fe80::1")),
        ("*", "10.1.0.5", 422, "expected an AE title"),
        ("", "10.1.0.5", 422, "expected an AE title"),
        ("A" * 17, "10.1.0.5", 422, "expected an AE title"),
        ("A\\B", "10.1.0.5", 422, "expected an AE title"),
        ("CT", "*", 422, "expected an address"),
        ("CT", "0.0.0.0/0", 422, "found all of them"),
        ("CT", "pacs.example", 422, "expected an address"),
        ("CT", "10.1.0.999", 422, "expected an address"),
    ],
)
def test_only_a_title_with_an_address_or_network_is_let_in(admin, database, title, host, status, said):
    """What opens the node to everybody is for who can edit node.toml."""
    answer = admin.post("/admin/senders/allow", data={"ae_title": title, "host": host})
    assert answer.status_code == status
    if status == 303:
        assert [item[:2] for item in allowed(database)] == [said]
        again = admin.post("/admin/senders/allow", data={"ae_title": title, "host": host})
        assert (again.status_code, "may send already" in again.text) == (409, True)
    else:
        assert (said in answer.text, allowed(database)) == (True, [])
    api = admin.post("/api/callers/allowed", json={"ae_title": title, "host": host})
    assert api.status_code == (409 if status == 303 else 400)


@pytest.mark.requirement("SRS-ADM-103")
def test_who_is_let_in_by_a_network_is_no_longer_an_unknown_caller(admin, rejected):
    """The alarm of what has been decided is noise; that of the same title from elsewhere is not."""
    made = admin.post("/api/callers/allowed", json={"ae_title": "CT_NEW", "host": "10.1.0.0/24"})
    assert made.status_code == 201
    assert admin.post("/api/callers/allowed", json={"ae_title": "CR_ROOM_1", "host": "10.1.0.0/24"}).status_code == 201
    left = {item["calling_ae_title"] for item in admin.get("/api/callers").json()["rejected"]}
    assert left == {"CR_ROOM_1", "DX_ER", "PACS", "PACS_2"}


@pytest.mark.requirement("SRS-ADM-103")
def test_who_was_let_in_is_let_out_again(admin, database):
    """By page and by API; a second time there is nobody."""
    first = admin.post("/api/callers/allowed", json={"ae_title": "CT", "host": "10.1.0.77"})
    second = admin.post("/api/callers/allowed", json={"ae_title": "MR", "host": "10.1.0.78"})
    assert (first.status_code, second.json()["created_by"]) == (201, "kim")
    assert [item["ae_title"] for item in admin.get("/api/callers").json()["allowed"]] == ["CT", "MR"]
    assert admin.post(f"/admin/senders/allowed/{first.json()['id']}/revoke").status_code == 303
    assert admin.delete(f"/api/callers/allowed/{second.json()['id']}").status_code == 204
    assert admin.delete(f"/api/callers/allowed/{second.json()['id']}").status_code == 404
    assert allowed(database) == []
    with database.read() as connection:
        told = [event.event for event in reversed(audit.events(connection)) if event.event.startswith("caller_")]
    assert told == ["caller_allowed", "caller_allowed", "caller_revoked", "caller_revoked"]


@pytest.mark.requirement("SRS-ADM-102")
def test_a_caller_is_taken_off_the_list(admin, rejected):
    """A port scan of last week need not stay an alarm."""
    assert admin.post(f"/admin/senders/rejected/{rejected['CT_NEW']}/dismiss").status_code == 303
    assert admin.delete(f"/api/callers/rejected/{rejected['CR_ROOM_1']}").status_code == 204
    assert admin.delete(f"/api/callers/rejected/{rejected['CR_ROOM_1']}").status_code == 404
    left = {item["calling_ae_title"] for item in admin.get("/api/callers").json()["rejected"]}
    assert left == {"DX_ER", "PACS", "PACS_2"}
    assert not any(
        "unknown caller" in item["sentence"] for item in admin.get("/api/health").json()["detail"]["troubles"]
    )


@pytest.mark.requirement("SRS-ADM-104")
def test_a_silent_sender_is_an_alarm_until_it_is_muted(admin, database, ward, clock):
    """Muted by a name that is told; over with the next image, before anybody has noted it."""
    ward.add("1.2.3", waited_min=3 * 24 * 60)
    with database.begin() as connection:
        ((sender, last),) = senders.last_images(connection).items()
        senders.note_silence(connection, *sender, last_at=last, now=clock.now)
    (body,) = admin.get("/api/senders").json()["senders"]
    assert (body["state"], body["calling_ae_title"], body["modality"], body["silent_after_h"]) == (
        "silent",
        "CR_ROOM_1",
        "DX",
        24,
    )
    assert "Mute until it sends again" in admin.get("/admin/senders").text
    assert admin.post(f"/admin/senders/silences/{body['silence']}/mute").status_code == 303
    assert admin.post(f"/api/silences/{body['silence']}/mute").status_code == 404
    (body,) = admin.get("/api/senders").json()["senders"]
    assert (body["state"], body["muted_by"]) == ("muted", "kim")
    page = admin.get("/admin/senders").text
    assert ("Mute until it sends again" in page, "by kim" in page) == (False, True)
    ward.add("1.2.4", waited_min=1)
    (body,) = admin.get("/api/senders").json()["senders"]
    assert (body["state"], body["last_24_hours"], body["silence"]) == ("heard", 1, None)


@pytest.mark.requirement("SRS-ADM-101")
def test_associations_are_found_by_title_and_end_and_paged(admin, database, clock):
    """What happened to the portable at three in the morning, without the ten thousand others."""
    made = [
        Association(f"a{n}", "DX_ER" if n % 3 else "CR", "N", "10.1.0.5", clock.now - timedelta(minutes=n), clock.now)
        for n in range(120)
    ]
    lost = Association("x", "DX_ER", "N", "10.1.0.5", clock.now, clock.now, outcome=LOST)
    with database.begin() as connection:
        associations.add(connection, [*made, lost])
    page = admin.get("/api/associations").json()
    assert (len(page["associations"]), page["has_more"], page["associations"][0]["outcome"]) == (50, True, LOST)
    last = admin.get("/api/associations", params={"page": 3}).json()
    assert (len(last["associations"]), last["has_more"]) == (21, False)
    assert len(admin.get("/api/associations", params={"ae_title": "CR"}).json()["associations"]) == 40
    only = admin.get("/api/associations", params={"ae_title": "DX_ER", "outcome": LOST}).json()["associations"]
    assert [item["association_id"] for item in only] == ["x"]
    text = admin.get("/admin/senders", params={"ae_title": "DX_ER", "page": 2}).text
    assert 'rel="prev"' in text
    assert "ae_title=DX_ER" in text
    assert 'rel="next"' not in text


@pytest.mark.requirement("SRS-ADM-102")
def test_what_a_caller_writes_is_shown_and_never_obeyed(admin, database, clock):
    """Whoever reaches the port writes on the admin's page."""
    with database.begin() as connection:
        row = Rejected(HOSTILE, HOSTILE, HOSTILE, "called_ae_title", 1, clock.now, clock.now)
        callers.note_rejected(connection, [row])
        gone = Association("a", HOSTILE, HOSTILE, HOSTILE, clock.now, clock.now, outcome=LOST, reason=HOSTILE)
        associations.add(connection, [gone])
        senders.note_silence(connection, HOSTILE, HOSTILE, last_at=clock.now, now=clock.now)
    for path in ("/admin/senders", "/admin", "/admin/senders?ae_title=%3Cscript%3Ealert("):
        text = admin.get(path).text
        assert "<script>alert" not in text
        assert "\u202e" not in text
    assert "&lt;script&gt;alert" in admin.get("/admin/senders").text
    assert admin.get("/metrics").status_code == 200


@pytest.mark.requirement("SRS-ADM-103")
@pytest.mark.parametrize("role", ["reader", "auditor", "service"])
def test_only_an_admin_may(client, sign_in, role):
    """A reader who lets a caller in has opened the node."""
    sign_in(client, role)
    asked = {
        (method, path): client.request(method, path).status_code
        for method, path in (
            ("GET", "/admin/senders"),
            ("GET", "/admin/senders/allow"),
            ("POST", "/admin/senders/allow"),
            ("POST", "/admin/senders/allowed/1/revoke"),
            ("POST", "/admin/senders/rejected/1/dismiss"),
            ("POST", "/admin/senders/silences/1/mute"),
            ("GET", "/api/senders"),
            ("POST", "/api/silences/1/mute"),
            ("GET", "/api/callers"),
            ("POST", "/api/callers/allowed"),
            ("DELETE", "/api/callers/allowed/1"),
            ("DELETE", "/api/callers/rejected/1"),
            ("GET", "/api/associations"),
        )
    }
    assert {call: status for call, status in asked.items() if status != 403} == {}


@pytest.mark.requirement("SRS-ADM-103")
@pytest.mark.parametrize("path", ["/admin/senders/allow", "/admin/senders/allowed/1/revoke", "/api/callers/allowed"])
def test_a_page_of_another_site_cannot_let_anybody_in(admin, path):
    """The browser of an admin who reads mail beside it."""
    del admin.headers["x-csrf-token"]
    assert admin.post(path, data={"ae_title": "CT", "host": "10.1.0.1"}).status_code == 403


@pytest.mark.requirement("SRS-ADM-103")
@pytest.mark.parametrize(
    "path",
    [
        "/admin/senders?page=0",
        "/admin/senders?page=99999999999999999999",
        "/admin/senders?outcome=other",
        "/admin/senders/allow?rejected=99999999999999999999",
        "/api/associations?page=-1",
    ],
)
def test_what_is_no_number_of_a_page_is_refused(admin, path):
    """A sentence, not a fault."""
    assert admin.get(path).status_code == 422
    assert admin.get("/api/associations", params={"ae_title": "\x00"}).status_code == 200


@pytest.mark.requirement("SRS-CLI-904")
def test_who_was_turned_away_at_the_worklist_is_told_so_and_cannot_be_let_in_here(admin, database, clock):
    """Who is let in on the page may send; for the worklist that button would do nothing."""
    with database.begin() as connection:
        rows = [
            Rejected("RIS", "CXR_WORKLIST", "10.1.0.9", "worklist:calling_ae_title", 1, clock.now, clock.now),
            Rejected("RIS_2", "WORKLIST", "10.1.0.9", "worklist:called_ae_title", 1, clock.now, clock.now),
            Rejected("RIS_3", "CXR_WORKLIST", "10.1.0.9", "worklist:certificate", 1, clock.now, clock.now),
            Rejected("RIS_4", "CXR_WORKLIST", "10.1.0.9", "worklist:maximum_associations", 1, clock.now, clock.now),
            Rejected("", "", "10.1.0.9", "worklist:tls", 1, clock.now, clock.now, certificate="it has expired"),
        ]
        callers.note_rejected(connection, rows)
    page = admin.get("/admin/senders").text
    assert "/admin/senders/allow?rejected=" not in page
    for sentence in (
        "no [[caller]] of node.toml has this AE title and address.",
        "it calls WORKLIST; that is CXR_WORKLIST.",
        "change certificate of its [[caller]]",
        "all associations were taken.",
        "TLS failed: it has expired.",
    ):
        assert sentence in page
    assert admin.get("/api/health").json()["detail"]["unknown_callers"] == 3
