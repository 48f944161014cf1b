"""Dead letters: what was given up is found, told apart, done again or laid aside."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import audit, dead_letters, deliveries, jobs, results, studies
from storage.studies import PatientContext

pytestmark = pytest.mark.requirement("SRS-ADM-202")

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NO_SUCH = 987654


def give_up(database, kind, key, reason="it did not work", at=NOON):
    """A job of the kind fails for good; return its id."""
    with database.begin() as connection:
        jobs.schedule(connection, kind, key, run_at=at, now=at)
        (claimed,) = jobs.claim(connection, [kind], owner="t:1:", now=at)
        assert jobs.fail(connection, claimed, reason=reason, now=at)
    return claimed.id


def failed_delivery(database, uid="1.2.3", state="FAILED"):
    """A study with a report that did not get out; return the delivery's id."""
    with database.begin() as connection:
        studies.touch(connection, uid, PatientContext(), ordered_rank=0, calling_ae_title="CR", now=NOON)
        result = results.add(connection, uid, status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=NOON)
        planned = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=NOON)
        deliveries.set_state(connection, planned.id, state, now=NOON, reason="refused")
    return planned.id


def test_analyses_deliveries_and_the_rest_are_told_apart(database):
    """A study without a result is another worry than a report that did not get out."""
    delivery = failed_delivery(database)
    give_up(database, "analyze", "1.2.9", at=NOON)
    give_up(database, "deliver:pacs", str(delivery), at=NOON + timedelta(minutes=1))
    give_up(database, "upkeep", "retention", at=NOON + timedelta(minutes=2))
    with database.read() as connection:
        found = dead_letters.page(connection, limit=10)
        assert dead_letters.counts(connection) == {"analyze": 1, "deliver": 1, "prove": 0, "other": 1}
        only = [dead_letters.page(connection, group=group, limit=10) for group in dead_letters.GROUPS]
    assert [(item.group, item.study_instance_uid) for item in found] == [
        ("other", ""),
        ("deliver", "1.2.3"),
        ("analyze", "1.2.9"),
    ]
    assert [[item.kind for item in each] for each in only] == [["analyze"], ["deliver:pacs"], [], ["upkeep"]]


def test_a_failed_analysis_runs_again_at_once_with_its_tries_counted_anew(database):
    """The cause was put right; the study must not wait for a backoff."""
    job = give_up(database, "analyze", "1.2.9")
    later = NOON + timedelta(hours=1)
    with database.begin() as connection:
        assert dead_letters.retry(connection, job, by="r.admin", now=later).is_done
        again = jobs.get(connection, "analyze", "1.2.9")
        assert (again.state, again.run_at, again.attempts, again.reason) == (jobs.SCHEDULED, later, 0, "")
        entry = audit.newest(connection, "job_retried")[0]
    assert (entry.actor, entry.study_instance_uid) == ("r.admin", "1.2.9")
    assert entry.detail["reason"] == "it did not work"


def test_a_failed_delivery_is_scheduled_again_with_its_job(database):
    """Reviving the job alone would find a delivery that is not open, and send nothing."""
    delivery = failed_delivery(database)
    job = give_up(database, "deliver:pacs", str(delivery))
    with database.begin() as connection:
        assert dead_letters.retry(connection, job, by="r.admin", now=NOON).is_done
        assert deliveries.get(connection, delivery).state == deliveries.SCHEDULED
        assert jobs.get(connection, "deliver:pacs", str(delivery)).state == jobs.SCHEDULED
        assert dead_letters.page(connection, limit=9) == []


def test_what_a_newer_result_took_the_place_of_is_not_sent_again(database):
    """An old report after the new one would stand on top of it in the PACS."""
    delivery = failed_delivery(database)
    job = give_up(database, "deliver:pacs", str(delivery))
    with database.begin() as connection:
        results.add(connection, "1.2.3", status="analysed", flagged=False, ai_priority="", outcome={}, now=NOON)
        done = dead_letters.retry(connection, job, by="r.admin", now=NOON)
        assert (done.is_done, "older revision" in done.reason) == (False, True)
        assert dead_letters.get(connection, job) is not None


def test_a_job_is_done_again_once(database):
    """Two admins press the button."""
    job = give_up(database, "analyze", "1.2.9")
    done, refused = dead_letters.retry_many(database, [job, job, NO_SUCH], by="r.admin", now=NOON)
    assert (done, len(refused)) == (1, 2)
    assert "is not given up" in refused[0]


def test_what_is_laid_aside_leaves_the_list_and_the_reasons_stay(database):
    """The study stays failed; who decided that nothing is done, and why, is asked later."""
    job = give_up(database, "analyze", "1.2.9")
    with database.begin() as connection:
        assert dead_letters.dismiss(connection, job, reason="test images", by="r.admin", now=NOON).is_done
        assert not dead_letters.dismiss(connection, job, reason="again", by="r.admin", now=NOON).is_done
        assert dead_letters.page(connection, limit=9) == []
        entry = audit.newest(connection, "job_dismissed")[0]
    assert (entry.detail["reason"], entry.detail["failed_because"]) == ("test images", "it did not work")
    assert entry.study_instance_uid == "1.2.9"
