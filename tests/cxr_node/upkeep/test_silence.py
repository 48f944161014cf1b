"""Modalities that have fallen silent, by a clock that is moved."""

import io
import json
import sys
from datetime import timedelta

import pytest

from cxr_node.log import configure_logging
from cxr_node.settings import Caller, Settings
from cxr_node.upkeep import stage
from cxr_node.upkeep.self_test import Checked
from cxr_node.upkeep.silence import watch_senders
from storage import associations, callers, heartbeats, jobs, senders, studies
from storage.associations import Association
from storage.callers import Rejected
from storage.studies import PatientContext
from tests.cxr_node.upkeep.conftest import NOW

pytestmark = pytest.mark.requirement("SRS-ADM-104")


@pytest.fixture
def log():
    """What is logged, line by line."""
    out = io.StringIO()
    configure_logging("info", "upkeep", out)
    yield lambda: [
        (line["event"], line["calling_ae_title"], line["modality"])
        for line in map(json.loads, out.getvalue().splitlines())
    ]
    configure_logging("info", "test", sys.stderr)


def send(site, title: str, modality: str, at) -> None:
    """Have a study arrive."""
    with site.database.begin() as connection:
        context = PatientContext(modality=modality)
        uid = f"1.2.{at.timestamp():.0f}.{int.from_bytes(title.encode(), 'big')}"
        studies.touch(connection, uid, context, ordered_rank=0, calling_ae_title=title, now=at)


def silent(site) -> list[tuple[str, str, bool]]:
    """Return who is silent, and whether that is muted."""
    with site.database.read() as connection:
        return [(*item.sender, item.muted_at is not None) for item in senders.silent(connection)]


def test_a_silence_is_one_alarm_and_ends_with_the_next_image(site, log):
    """A line a minute all night is a log that nobody reads."""
    send(site, "CR_ROOM_1", "CR", NOW)
    send(site, "CR_ROOM_1", "DX", NOW - timedelta(hours=3))
    watch_senders(site.database, site.settings, now=NOW + timedelta(hours=21))
    assert silent(site) == []
    for minute in range(3):
        watch_senders(site.database, site.settings, now=NOW + timedelta(hours=22, minutes=minute))
    assert silent(site) == [("CR_ROOM_1", "DX", False)]
    send(site, "CR_ROOM_1", "DX", NOW + timedelta(hours=23))
    watch_senders(site.database, site.settings, now=NOW + timedelta(hours=23, minutes=1))
    assert silent(site) == []
    assert log() == [("sender_silent", "CR_ROOM_1", "DX"), ("sender_heard", "CR_ROOM_1", "DX")]


def test_a_muted_sender_stays_muted_until_it_sends_again(site, log):
    """A room that was closed; once it sends, its silence is news again."""
    send(site, "OLD_ROOM", "CR", NOW)
    watch_senders(site.database, site.settings, now=NOW + timedelta(days=2))
    with site.database.begin() as connection:
        (silence,) = senders.silent(connection)
        senders.mute(connection, silence.id, by="kim", now=NOW)
    watch_senders(site.database, site.settings, now=NOW + timedelta(days=9))
    assert silent(site) == [("OLD_ROOM", "CR", True)]
    send(site, "OLD_ROOM", "CR", NOW + timedelta(days=10))
    watch_senders(site.database, site.settings, now=NOW + timedelta(days=20))
    assert silent(site) == [("OLD_ROOM", "CR", False)]
    assert len(log()) == 2


def test_each_sender_is_given_its_own_time(site):
    """An emergency room sends every hour, a research scanner once a month; a check by the node's own command never."""
    listed = (
        Caller(ae_title="DX_ER", hosts=("*",), silent_after_h=2),
        Caller(ae_title="RESEARCH", hosts=("*",), silent_after_h=0),
        Caller(ae_title="*", hosts=("*",)),
    )
    settings = site.settings.model_copy(update={"caller": listed})
    for title in ("DX_ER", "RESEARCH", "OTHER", "CXR_DOCTOR"):
        send(site, title, "DX", NOW)
    watch_senders(site.database, settings, now=NOW + timedelta(hours=3))
    assert silent(site) == [("DX_ER", "DX", False)]
    watch_senders(site.database, settings, now=NOW + timedelta(days=300))
    assert silent(site) == [("DX_ER", "DX", False), ("OTHER", "DX", False)]
    off = settings.model_copy(update={"upkeep": settings.upkeep.model_copy(update={"silent_after_h": 0.0})})
    watch_senders(site.database, off, now=NOW + timedelta(days=300))
    assert silent(site) == [("DX_ER", "DX", False)]


def test_the_section_of_the_sender_counts_before_that_of_any():
    """Whatever their order in the file."""
    listed = [Caller(ae_title="*", silent_after_h=5), Caller(ae_title="DX_ER ", silent_after_h=2)]
    settings = Settings(caller=tuple(listed))
    assert (settings.silent_after_h("DX_ER"), settings.silent_after_h("OTHER")) == (2, 5)
    assert Settings(caller=()).silent_after_h("OTHER") == 24


@pytest.mark.requirement("SRS-ADM-102")
def test_what_is_old_is_forgotten(site, monkeypatch):
    """Associations of years would fill the database with who said hello."""
    monkeypatch.setattr(stage, "utc_now", lambda: NOW)
    with site.database.begin() as connection:
        for days in (29, 31):
            at = NOW - timedelta(days=days)
            associations.add(connection, [Association(f"a{days}", "CR", "N", "10.1.0.5", at, at)])
            callers.note_rejected(connection, [Rejected(f"X{days}", "N", "10.1.0.5", "calling_ae_title", 1, at, at)])
            jobs.schedule(connection, "analyze", f"1.2.{days}", run_at=at, now=at)
            (job,) = jobs.claim(connection, ["analyze"], owner="host:1:", now=at)
            assert jobs.complete(connection, job, now=at)
        heartbeats.beat(connection, "analyze", "host:1", started_at=NOW, now=NOW - timedelta(hours=2), detail={})
        heartbeats.beat(connection, "analyze", "host:2", started_at=NOW, now=NOW - timedelta(minutes=2), detail={})
    site.upkeep().forget_senders()
    with site.database.read() as connection:
        assert [item.association_id for item in associations.recent(connection, limit=9)] == ["a29"]
        assert [item.calling_ae_title for item in callers.rejected(connection)] == ["X29"]
        assert [item.process for item in heartbeats.listed(connection)] == ["host:2"]
        assert jobs.get(connection, "analyze", "1.2.31") is None
        assert jobs.get(connection, "analyze", "1.2.29") is not None


@pytest.mark.requirement("SRS-ADM-105")
def test_the_stage_tells_of_its_last_self_test(site, monkeypatch):
    """Which package failed, and why, is shown where the models are."""
    upkeep = site.upkeep()
    assert upkeep.standing() == {"self_test": None}
    monkeypatch.setattr(stage, "run_apart", lambda *_: [Checked("good"), Checked("bad", reason="differs")])
    upkeep.self_test()
    assert upkeep.standing()["self_test"]["packages"] == {"good": "", "bad": "differs"}
