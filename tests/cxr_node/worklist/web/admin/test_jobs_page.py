"""Failed jobs as page and API: found, done again, laid aside."""

import re

import pytest

from storage import audit, deliveries, jobs

pytestmark = pytest.mark.requirement("SRS-ADM-202")


@pytest.fixture
def admin(client, sign_in):
    sign_in(client, "admin", login="ada")
    return client


@pytest.fixture
def failed(ward, database, clock):
    """An analysis and a delivery that were given up; return their job ids."""
    ward.add("1.2.3", flagged=True)
    ward.add("1.2.4", status="failed")
    with database.begin() as connection:
        delivery = deliveries.of_study(connection, "1.2.3")[0]
        deliveries.set_state(connection, delivery.id, "FAILED", now=clock.now, reason="refused")
        jobs.schedule(connection, "deliver:pacs", str(delivery.id), run_at=clock.now, now=clock.now)
        (claimed,) = jobs.claim(connection, ["deliver:pacs"], owner="t:", now=clock.now)
        jobs.fail(connection, claimed, reason="pacs: refused <script>", now=clock.now)
        return jobs.get(connection, "analyze", "1.2.4").id, claimed.id


def state(database, kind, key):
    with database.read() as connection:
        return jobs.get(connection, kind, key).state


def test_the_page_tells_analyses_from_deliveries_with_study_and_reason(admin, failed):
    page = admin.get("/admin/jobs").text
    assert 'href="/studies/1.2.3"' in page
    assert "the model did not answer" in page
    assert "pacs: refused &lt;script&gt;" in page
    assert "SR to pacs" in page
    only = admin.get("/admin/jobs?group=analyze").text
    assert "the model did not answer" in only
    assert "SR to pacs" not in only


def test_the_chosen_ones_run_again(admin, failed, database):
    """And no others."""
    answer = admin.post("/admin/jobs/retry", data={"job": [str(failed[0])], "group": "analyze"})
    assert answer.headers["location"] == "/admin/jobs?group=analyze&done=1&refused=0"
    assert "1 started again" in admin.get(answer.headers["location"]).text
    assert state(database, "analyze", "1.2.4") == jobs.SCHEDULED
    assert state(database, "deliver:pacs", "1") == jobs.FAILED


def test_all_of_a_kind_run_again_and_no_other(admin, failed, database):
    admin.post("/admin/jobs/retry", data={"every": "deliver"})
    assert state(database, "deliver:pacs", "1") == jobs.SCHEDULED
    assert state(database, "analyze", "1.2.4") == jobs.FAILED


def test_laying_aside_asks_for_a_reason_and_keeps_it(admin, failed, database):
    page = admin.get(f"/admin/jobs/{failed[0]}/dismiss").text
    assert re.search(r'<textarea id="reason" name="reason" maxlength="500" required>', page)
    assert admin.post(f"/admin/jobs/{failed[0]}/dismiss", data={"reason": ""}).status_code == 422
    answer = admin.post(f"/admin/jobs/{failed[0]}/dismiss", data={"reason": "a phantom"})
    assert answer.headers["location"] == "/admin/jobs?dismissed=1"
    assert admin.get(f"/admin/jobs/{failed[0]}/dismiss").status_code == 404
    with database.read() as connection:
        entry = audit.newest(connection, "job_dismissed")[0]
    assert (entry.actor, entry.detail["reason"]) == ("ada", "a phantom")


def test_the_api_lists_and_retries(admin, failed, database):
    """What a script watches at night."""
    found = admin.get("/api/jobs", params={"state": "failed"}).json()
    assert found["counts"] == {"analyze": 1, "deliver": 1, "prove": 0, "other": 0}
    (delivery,) = admin.get("/api/jobs", params={"group": "deliver"}).json()["jobs"]
    assert (delivery["study_instance_uid"], delivery["destination"]) == ("1.2.3", "pacs")
    assert admin.post(f"/api/jobs/{failed[1]}/retry").json() == {"id": failed[1]}
    assert admin.post(f"/api/jobs/{failed[1]}/retry").status_code == 409
    assert admin.post(f"/api/jobs/{failed[0]}/dismiss", json={"reason": "a phantom"}).status_code == 200
    assert admin.get("/api/jobs").json()["jobs"] == []
    assert state(database, "deliver:pacs", "1") == jobs.SCHEDULED


@pytest.mark.parametrize("number", ["0", "-1", "99999999999999", "x"])
def test_a_number_that_is_no_job_is_refused(admin, number):
    """Never an error of ours."""
    assert admin.post(f"/api/jobs/{number}/retry").status_code in (409, 422)
    assert admin.post("/admin/jobs/retry", data={"job": number}).status_code in (303, 422)


def test_a_form_of_another_session_does_nothing(admin, failed, database):
    admin.headers["X-CSRF-Token"] = "another"
    assert admin.post("/admin/jobs/retry", data={"every": "analyze"}).status_code == 403
    assert state(database, "analyze", "1.2.4") == jobs.FAILED
