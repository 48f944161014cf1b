"""The audit trail as a page: searched, exported, and the reading itself written down."""

import csv
import io

import pytest

from cxr_node.worklist.web.admin.audit_page import safe_cell
from storage import audit

pytestmark = pytest.mark.requirement("SRS-ADM-207")


@pytest.fixture
def auditor(client, sign_in):
    sign_in(client, "auditor", login="otto")
    return client


@pytest.fixture
def trail(database, clock):
    with database.begin() as connection:
        for number in range(120):
            audit.record(
                connection,
                "study_read",
                actor="=HYPERLINK(1)" if number == 7 else "dr.lee",
                now=clock.now,
                study_instance_uid=f"1.2.{number}",
                detail={"note": "<i>\u202e" if number == 119 else "", "revision": number},
            )


def test_an_auditor_reads_and_searches_the_trail_and_nothing_else(auditor, trail):
    """Who checks the others needs no patient's study for it."""
    page = auditor.get("/admin/audit").text
    assert "1.2.119" in page
    assert "/studies/" not in page
    assert "&lt;i&gt;\ufffd" in page
    found = auditor.get("/admin/audit?study=1.2.42").text
    assert "1.2.42" in found
    assert "1.2.43" not in found
    for path in ("/", "/admin", "/admin/jobs", "/admin/models", "/admin/charts", "/admin/retention", "/api/jobs"):
        assert auditor.get(path).status_code == 403
    assert auditor.get("/studies/1.2.42").status_code == 403


def test_an_admin_goes_on_to_the_study(client, sign_in, trail):
    sign_in(client, "admin")
    assert 'href="/studies/1.2.119"' in client.get("/admin/audit").text


@pytest.mark.parametrize("role", ["reader", "service"])
def test_others_do_not_read_it(client, sign_in, role):
    """It tells who looked at whom."""
    sign_in(client, role)
    assert client.get("/admin/audit").status_code == 403
    assert client.get("/admin/audit.csv").status_code == 403


def test_pages_follow_one_another(auditor, trail):
    page = auditor.get("/admin/audit?event=study_read").text
    assert ">1.2.20<" in page
    assert ">1.2.19<" not in page
    older = page.split('href="/admin/audit?')[-1].split('"')[0].replace("&amp;", "&")
    assert "before=" in older
    assert ">1.2.19<" in auditor.get(f"/admin/audit?{older}").text


def test_reading_is_written_down_without_the_words_that_were_typed(auditor, trail, database, clock):
    """Somebody types a patient's name: it must not stand in the trail for ever."""
    auditor.get("/admin/audit?text=Doe^Jane&since=2026-01-01")
    auditor.get("/admin/audit.csv?study=1.2.3")
    with database.read() as connection:
        read, exported = audit.newest(connection, "audit_read")[0], audit.newest(connection, "audit_exported")[0]
    assert (read.actor, read.detail) == (
        "otto",
        {"address": "testclient", "role": "auditor", "narrowed_by": ["since", "text"]},
    )
    assert exported.study_instance_uid == "1.2.3"


def test_the_export_holds_what_the_search_finds_and_no_formula(auditor, trail):
    """The table is opened in a spreadsheet, which would run it."""
    answer = auditor.get("/admin/audit.csv?event=study_read")
    lines = list(csv.reader(io.StringIO(answer.text)))
    assert lines[0] == ["id", "time", "event", "actor", "study_instance_uid", "detail"]
    assert len(lines) == 121
    assert [line[3] for line in lines if line[4] == "1.2.7"] == ["'=HYPERLINK(1)"]
    assert "attachment" in answer.headers["content-disposition"]


def test_half_a_character_does_not_end_the_export(auditor, database, clock):
    """A JSON body may carry one; it came in, so it must get out."""
    with database.begin() as connection:
        audit.record(connection, "job_dismissed", actor="x", now=clock.now, detail={"reason": "\ud800\x00"})
    assert auditor.get("/admin/audit.csv").text.count("job_dismissed") == 1
    assert auditor.get("/admin/audit?text=reason").status_code == 200


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_what_a_spreadsheet_would_run_is_text(text):
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "query", ["since=yesterday", "until=9999-12-31", "since=0001-01-01", "since=2026-13-01", "since=%00"]
)
def test_a_time_that_is_none_is_told(auditor, trail, query):
    """Never an error of ours, never all entries as if nothing had been asked."""
    page = auditor.get(f"/admin/audit?{query}")
    assert page.status_code == 200
    if query != "since=%00":
        assert "expected a time such as" in page.text
        assert "1.2.119" not in page.text
        assert auditor.get(f"/admin/audit.csv?{query}").status_code == 422


def test_a_day_is_meant_to_its_end_in_the_sites_zone(auditor, trail):
    assert "1.2.119" in auditor.get("/admin/audit?since=2026-03-02&until=2026-03-02").text
    assert "1.2.119" not in auditor.get("/admin/audit?until=2026-03-02T11:59").text
