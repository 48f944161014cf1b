"""What may be deleted, and what never."""

import os
import threading
from datetime import timedelta

import pytest

from cxr_node.upkeep.retention import BATCH, Retained, delete_expired
from storage import audit, heat_maps, instances, results, studies
from storage.studies import PatientContext
from tests.cxr_node.upkeep.conftest import NOW

pytestmark = pytest.mark.requirement("SRS-UPK-003")

BEFORE = NOW - timedelta(days=30)


def run(site):
    return delete_expired(site.database, site.files, before=BEFORE, now=NOW, stop=site.stop)


@pytest.mark.parametrize("status", ["analysed", "not_analysed"])
@pytest.mark.parametrize("delivery", ["DELIVERED", "COMMITTED", "SUPERSEDED", None])
def test_the_bytes_of_a_finished_study_go_and_its_result_stays(site, status, delivery):
    """The disk is for studies at work; what was said of a study is the record."""
    locations = site.study("1.2.3", age_days=31, status=status, delivery=delivery)
    assert run(site) == Retained(deleted=2, bytes=12)
    assert site.held(locations) == [False, False]
    with site.database.read() as connection:
        assert instances.of_study(connection, "1.2.3") == []
        assert results.current(connection, "1.2.3").status == status
        (event,) = audit.events(connection, study_instance_uid="1.2.3")
    assert event.event == "instances_deleted"
    assert (event.detail["instances"], event.detail["bytes"]) == (2, 12)


def test_heat_maps_go_with_the_images_that_they_are_of(site):
    """They show places in a patient's image."""
    site.study("1.2.3", age_days=31)
    picture = site.files.write_object("heat-map:1", b"picture")
    with site.database.begin() as connection:
        (image, *_) = instances.of_study(connection, "1.2.3")
        asked = heat_maps.ask(connection, image.id, model_digest="d" * 64, finding="pneumonia", now=NOW)
        heat_maps.settle(connection, asked.id, location=picture)
    assert run(site) == Retained(deleted=2, bytes=12)
    assert site.held([picture]) == [False]
    with site.database.read() as connection:
        assert heat_maps.get(connection, asked.id) is None


@pytest.mark.parametrize(
    ("age_days", "status", "delivery"),
    [
        (29, "analysed", "DELIVERED"),
        (31, None, None),
        (31, "failed", "DELIVERED"),
        (31, "analysed", "SCHEDULED"),
        (31, "analysed", "FAILED"),
    ],
    ids=["young", "pending", "failed", "on its way", "given up"],
)
def test_what_somebody_may_still_need_is_kept(site, age_days, status, delivery):
    """A study without a result, or whose report did not arrive, waits for a person with all it has."""
    locations = site.study("1.2.3", age_days=age_days, status=status, delivery=delivery)
    done = run(site)
    assert (done.deleted, done.kept) == (0, 0 if age_days < 30 else 2)
    assert site.held(locations) == [True, True]


def test_a_late_image_keeps_the_whole_study(site):
    """The next revision looks at every image of the study."""
    locations = site.study("1.2.3", age_days=31)
    with site.database.begin() as connection:
        studies.touch(connection, "1.2.3", PatientContext(), ordered_rank=0, calling_ae_title="CR_1", now=NOW)
    assert run(site).deleted == 0
    assert site.held(locations) == [True, True]


def test_studies_that_are_kept_do_not_stand_in_the_way_of_others(site, monkeypatch):
    """A PACS that takes nothing for a month must not fill the disk with what other PACS have."""
    monkeypatch.setattr("cxr_node.upkeep.retention.BATCH", 3)
    for number in range(4):
        site.study(f"1.2.{number}", age_days=50, delivery="SCHEDULED")
    later = site.study("1.3", age_days=40)
    assert run(site) == Retained(deleted=2, bytes=12, kept=8)
    assert site.held(later) == [False, False]


def test_running_again_does_nothing(site):
    site.study("1.2.3", age_days=31)
    run(site)
    assert run(site) == Retained()


def test_a_crash_between_row_and_file_is_mended_by_the_next_run(site, monkeypatch):
    """Rows are marked first: a row must not name a file that is gone."""
    locations = site.study("1.2.3", age_days=31)
    for location in locations:
        old = (NOW - timedelta(days=31)).timestamp()
        os.utime(site.files.path(location), (old, old))

    def crash(location: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(site.files, "delete", crash)
        with pytest.raises(KeyboardInterrupt):
            run(site)
    assert site.held(locations) == [True, True]
    assert run(site) == Retained(orphans=2)
    assert site.held(locations) == [False, False]


def test_files_without_a_row_are_kept_as_long_as_any_instance(site):
    """A node that an administrator points at a new database must not delete what it received before."""
    temporary = site.files.new_temporary()
    temporary.write_bytes(b"pixels")
    location = site.files.keep(temporary, "1.2.3", 0)
    recent = (NOW - timedelta(days=29)).timestamp()
    os.utime(site.files.path(location), (recent, recent))
    assert run(site).orphans == 0
    assert site.held([location]) == [True]


def test_it_ends_between_two_studies_when_the_node_stops(site):
    """The supervisor waits for seconds, a backlog of years takes longer."""
    stop = threading.Event()
    stop.set()
    locations = site.study("1.2.3", age_days=31)
    assert delete_expired(site.database, site.files, before=BEFORE, now=NOW, stop=stop) == Retained()
    assert site.held(locations) == [True, True]
    assert BATCH > 1
