"""The folder into which the page for trying images puts what somebody sends to the worklist."""

import pytest

from cxr_node.receive.stage import folders_of
from cxr_node.receive.watch import CALLING_DROP
from cxr_node.settings import Settings
from cxr_node.upkeep.silence import OWN_AE_TITLES
from storage import Database, instances
from tests.builders import make_radiograph_dataset, to_part_10
from tests.system.conftest import wait_until

pytestmark = pytest.mark.requirement("SRS-DRP-008")


def make_settings(folder, *, enabled: bool) -> Settings:
    settings = Settings.model_validate(
        {"base_dir": str(folder), "receive": {"min_free_gb": 0.0}, "worklist": {"drop": {"enabled": enabled}}}
    )
    settings.data_dir.mkdir()
    return settings


def test_the_stage_takes_what_is_put_there_and_says_where_it_came_from(tmp_path):
    """Nobody needs to set up a folder for it."""
    settings, dataset = make_settings(tmp_path, enabled=True), make_radiograph_dataset()
    with folders_of(settings):
        inbox = settings.data_dir / "inbox"
        (inbox / ".a.dcm").write_bytes(to_part_10(dataset))
        (inbox / ".a.dcm").rename(inbox / "a.dcm")
        wait_until(lambda: not (inbox / "a.dcm").exists(), 15.0, "the file was taken")
    database = Database(settings.database_url)
    with database.read() as connection:
        (received,) = instances.of_study(connection, dataset.StudyInstanceUID)
    database.dispose()
    assert received.calling_ae_title == CALLING_DROP


def test_without_the_page_there_is_no_such_way_in(tmp_path):
    """Nothing is watched that nobody uses."""
    settings = make_settings(tmp_path, enabled=False)
    with folders_of(settings):
        assert not (settings.data_dir / "inbox").exists()


def test_nobody_misses_the_page_when_it_sends_nothing():
    """It is no modality that can fall silent."""
    assert CALLING_DROP in OWN_AE_TITLES
