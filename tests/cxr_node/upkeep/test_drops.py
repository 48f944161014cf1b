"""What somebody tried goes when its time is up, whoever died meanwhile."""

import os
from datetime import timedelta

import pytest

from cxr_node.upkeep.drops import sweep_drops
from storage import drops
from storage.drops import DropFolder
from tests.cxr_node.upkeep.conftest import NOW

pytestmark = pytest.mark.requirement("SRS-DRP-004")


@pytest.fixture
def folder(site):
    return DropFolder(site.settings.data_dir / "drops")


def add(site, folder, *, minutes: float) -> str:
    """Add a drop of one file, with its bytes and a preview, that ends so many minutes from now."""
    location = folder.new()
    folder.path(location).write_bytes(b"image")
    folder.preview(location).write_bytes(b"preview")
    with site.database.begin() as connection:
        ends = NOW + timedelta(minutes=minutes)
        drop = drops.add(connection, owner="me", purpose="try", options={}, now=NOW, expires_at=ends)
        drops.add_file(connection, drop.id, name="a", state=drops.WAITING, now=NOW, location=location)
    return location


def age(path, hours: float) -> None:
    at = NOW.timestamp() - hours * 3600
    os.utime(path, (at, at))


def test_a_drop_goes_with_files_and_previews_once_its_time_is_up(site, folder):
    """One that is not expired stays."""
    gone, stays = add(site, folder, minutes=-1), add(site, folder, minutes=5)
    assert sweep_drops(site.database, site.settings, now=NOW) == 1
    assert not folder.path(gone).exists()
    assert sorted(folder.root.iterdir()) == sorted([folder.path(stays), folder.preview(stays)])


def test_what_a_killed_process_left_is_swept(site, folder):
    """An upload that no row names; one that may still be under way stays, and so does what a row names."""
    named = add(site, folder, minutes=5)
    old, young = folder.path(folder.new()), folder.path(folder.new())
    for path in (old, young):
        path.write_bytes(b"half")
    age(old, 2)
    age(folder.path(named), 2)
    assert sweep_drops(site.database, site.settings, now=NOW) == 1
    assert not old.exists()
    assert young.exists()
    assert folder.path(named).exists()


def test_an_image_that_the_intake_refused_is_swept_with_its_reason(site):
    """It was shown on the page; nobody looks into that folder."""
    failed = site.settings.data_dir / "inbox" / ".failed"
    failed.mkdir(parents=True)
    for name in ("a.dcm", "a.dcm.reason.txt", "new.dcm"):
        (failed / name).write_bytes(b"x")
    age(failed / "a.dcm", 2)
    age(failed / "a.dcm.reason.txt", 2)
    assert sweep_drops(site.database, site.settings, now=NOW) == 2
    assert [path.name for path in failed.iterdir()] == ["new.dcm"]


def test_there_may_be_nothing(site):
    """No folder was ever made."""
    assert sweep_drops(site.database, site.settings, now=NOW) == 0
