"""Intake over encrypted files: the same decisions, and nothing readable on the disk."""

import pytest

from cxr_node.receive import intake as module
from storage import InstanceFiles
from storage.errors import DuplicateInstance
from storage.keys import KeyFile, add_key
from tests.builders import make_radiograph_dataset, to_part_10
from tests.cxr_node.receive.test_intake import NOON, UIDS, Desk

pytestmark = pytest.mark.requirement("SRS-STO-303")


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    add_key(tmp_path / "keys.json", now=NOON)
    made.files = InstanceFiles(tmp_path / "instances", keys=KeyFile(tmp_path / "keys.json"))
    made.intake = made.make_intake()
    return made


def test_a_sealed_instance_is_known_again_and_another_under_its_uid_is_kept_apart(desk):
    """A modality that sends twice must not make a conflict, nor a conflict pass for the same image."""
    dataset = make_radiograph_dataset(**UIDS, PatientName="Planted^Jane")
    assert desk.accept(dataset).status == 0x0000
    assert desk.accept(dataset).status == 0x0000
    (row,) = desk.stored()
    assert row.size == desk.files.size(row.location) == len(to_part_10(dataset))
    dataset.PixelData = bytes(len(dataset.PixelData))
    assert desk.accept(dataset).status == 0x0000
    assert [item.variant for item in desk.stored()] == [0, 1]
    files = desk.all_files()
    assert len(files) == 2
    assert not any(b"Planted" in path.read_bytes() or b"DICM" in path.read_bytes() for path in files)


def test_the_loser_of_a_race_is_looked_at_anew_from_its_sealed_bytes(desk, monkeypatch):
    """Two associations send one UID at once: what was sealed already comes back into the spool as it came."""
    dataset = make_radiograph_dataset(**UIDS)
    add, tries = module.instances.add, []

    def lose_once(*arguments, **values):
        tries.append(1)
        if len(tries) == 1:
            raise DuplicateInstance("another association was faster")
        return add(*arguments, **values)

    monkeypatch.setattr(module.instances, "add", lose_once)
    assert desk.accept(dataset).status == 0x0000
    (row,) = desk.stored()
    assert desk.files.read(row.location) == to_part_10(dataset)
    assert len(desk.all_files()) == 1
