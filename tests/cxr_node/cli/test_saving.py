"""`cxr-node backup`, `restore` and `keys`, as an administrator types them."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from cxr_node.cli import keys, main
from cxr_node.settings import load_settings
from cxr_node.work.files import instance_files
from storage import Database, audit, instances, studies
from storage.keys import make_current
from storage.studies import PatientContext
from tests.builders import make_radiograph_dataset, to_part_10

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Site:
    def __init__(self, folder):
        self.folder = folder
        self.config = folder / "node.toml"
        self.config.write_text('[node]\ndata_dir = "var"\nencryption_key_file = "keys.json"\n')

    def run(self, *words: str) -> int:
        return main(["--config", str(self.config), *words])

    def receive(self, **attributes: object) -> str:
        """Store a study of one image; return its Study Instance UID."""
        settings = load_settings(self.config, {})
        dataset = make_radiograph_dataset(**attributes)
        files, database = instance_files(settings), Database(settings.database_url)
        database.migrate()
        temporary = files.new_temporary()
        temporary.write_bytes(to_part_10(dataset))
        size = temporary.stat().st_size
        location = files.keep(temporary, dataset.SOPInstanceUID, 0)
        with database.begin() as connection:
            instances.add(
                connection,
                sop_instance_uid=dataset.SOPInstanceUID,
                series_instance_uid=dataset.SeriesInstanceUID,
                study_instance_uid=dataset.StudyInstanceUID,
                sop_class_uid=dataset.SOPClassUID,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                variant=0,
                size=size,
                location=location,
                calling_ae_title="CR_1",
                called_ae_title="CXR_NODE",
                peer_address="127.0.0.1",
                association_id="a",
                received_at=NOON,
            )
            studies.touch(
                connection,
                dataset.StudyInstanceUID,
                PatientContext(),
                ordered_rank=0,
                calling_ae_title="CR_1",
                now=NOON,
            )
        database.dispose()
        return str(dataset.StudyInstanceUID)

    def events(self) -> list[str]:
        database = Database(load_settings(self.config, {}).database_url)
        with database.read() as connection:
            found = [event.event for event in audit.events(connection)]
        database.dispose()
        return found[::-1]


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.mark.requirement("SRS-CLI-311")
def test_a_node_is_saved_verified_and_put_back(site, tmp_path, capsys):
    """The whole way, with sealed images: the key file is kept apart by hand."""
    assert site.run("keys", "new") == 0
    site.receive()
    assert site.run("backup", str(tmp_path / "backups")) == 0
    told = capsys.readouterr().out
    assert "NOT in it" in told
    assert "hard links" in told
    assert site.run("backup", "verify", str(tmp_path / "backups")) == 0
    assert capsys.readouterr().out.startswith("ok")
    assert site.run("restore", str(tmp_path / "backups")) == 1
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "var").rename(tmp_path / "burnt")
    assert site.run("restore", str(tmp_path / "backups")) == 0
    assert "node.toml" in capsys.readouterr().out
    settings = load_settings(site.config, {})
    files, database = instance_files(settings), Database(settings.database_url)
    with database.read() as connection:
        (kept,) = instances.older_than(connection, datetime.now(UTC), 10)
    assert len(files.read(kept.location)) == kept.size
    database.dispose()
    assert site.events()[-1] == "backup_restored"


@pytest.mark.requirement("SRS-CLI-311")
def test_a_broken_backup_is_named_and_ends_with_failure(site, tmp_path, capsys):
    """For a cron job that looks at the exit status."""
    site.run("keys", "new")
    site.receive()
    site.run("backup", str(tmp_path / "backups"))
    (database,) = (tmp_path / "backups").glob("*/database.sqlite3")
    database.write_bytes(database.read_bytes()[:-1])
    capsys.readouterr()
    assert site.run("backup", "verify", str(tmp_path / "backups")) == 1
    assert "FAILED  database.sqlite3" in capsys.readouterr().out
    assert site.run("backup", "verify", str(tmp_path)) == 1
    assert "is no backup" in capsys.readouterr().err
    assert site.run("backup") == 2


@pytest.mark.requirement("SRS-CLI-312")
def test_keys_are_made_listed_and_rotated(site, capsys):
    """What an administrator sees of it, and the audit trail too."""
    assert site.run("keys", "list") == 1
    assert "keys new" in capsys.readouterr().err
    assert site.run("keys", "new") == 0
    assert "Keep a copy" in capsys.readouterr().out
    site.receive()
    assert site.run("keys", "new") == 0
    assert "keys rotate" in capsys.readouterr().out
    site.run("keys", "list")
    old, new, _ = capsys.readouterr().out.splitlines()
    assert ("current" in old, "1 files" in old) == (True, True)
    assert ("old" in new, "0 files" in new) == (True, True)
    assert site.run("keys", "rotate") == 0
    assert "1 files were wrapped" in capsys.readouterr().out
    site.run("keys", "list")
    old, new, _ = capsys.readouterr().out.splitlines()
    assert "0 files" in old
    assert ("current" in new, "1 files" in new) == (True, True)
    assert site.run("keys", "rotate") == 0
    assert "0 files were wrapped" in capsys.readouterr().out
    assert [event for event in site.events() if event.startswith("key")] == [
        "key_made", "key_made", "key_rotation_begun", "key_rotation_ended", "key_rotation_begun", "key_rotation_ended",
    ]  # fmt: skip


@pytest.mark.requirement("SRS-CLI-312")
def test_a_key_that_is_missing_is_shown_before_its_images_are_needed(site, tmp_path, capsys):
    """The key file of another node was put there by mistake."""
    site.run("keys", "new")
    site.receive()
    (tmp_path / "keys.json").unlink()
    site.run("keys", "new")
    capsys.readouterr()
    assert site.run("keys", "list") == 1
    assert "MISSING  1 files" in capsys.readouterr().out


@pytest.mark.requirement("SRS-CLI-906")
def test_a_key_is_removed_once_no_file_and_no_backup_needs_it(site, tmp_path, monkeypatch, capsys):
    """What is sealed with a key that is gone, nobody reads again: each thing that needs it is named."""
    with site.config.open("a") as config:
        config.write(f'[upkeep]\nbackup_dir = "{tmp_path / "backups"}"\n')
    site.run("keys", "new")
    site.receive()
    site.run("backup")
    site.run("keys", "new")
    old, new = json.loads((tmp_path / "keys.json").read_text())["keys"]
    site.run("keys", "rotate")

    def refused(key_id: str) -> str:
        capsys.readouterr()
        assert site.run("keys", "remove", key_id) == 1
        assert set(json.loads((tmp_path / "keys.json").read_text())["keys"]) == {old, new}
        return capsys.readouterr().err

    assert "is the current key" in refused(new)
    assert "holds no key" in refused("k-2026-01-01-00000000")
    told = refused(old)
    assert "was changed at" in told
    assert "the backup" in told
    monkeypatch.setattr(keys, "SETTLED_AFTER", timedelta(0))
    assert "was changed at" not in refused(old)
    shutil.rmtree(tmp_path / "backups")
    site.run("keys", "rotate", "--to", old)
    make_current(tmp_path / "keys.json", new)
    assert "is sealed with it" in refused(old)
    site.run("keys", "rotate")
    assert site.run("keys", "remove", old) == 0
    assert list(json.loads((tmp_path / "keys.json").read_text())["keys"]) == [new]
    assert site.events()[-1] == "key_removed"
    capsys.readouterr()
    assert site.run("keys", "list") == 0
    assert old not in capsys.readouterr().out


@pytest.mark.requirement("SRS-CLI-906")
def test_a_key_stays_while_a_file_or_a_backup_cannot_be_looked_at(site, tmp_path, monkeypatch, capsys):
    """It may be the one that needs the key."""
    with site.config.open("a") as config:
        config.write(f'[upkeep]\nbackup_dir = "{tmp_path / "backups"}"\n')
    site.run("keys", "new")
    site.receive()
    site.run("keys", "new")
    old, _ = json.loads((tmp_path / "keys.json").read_text())["keys"]
    site.run("keys", "rotate")
    site.run("backup")
    monkeypatch.setattr(keys, "SETTLED_AFTER", timedelta(0))
    (manifest,) = (tmp_path / "backups").glob("*/manifest.json")
    manifest.write_text("{")
    (image,) = (path for path in (tmp_path / "var" / "instances").rglob("*") if path.is_file())
    image.write_bytes(b"CXR" + image.read_bytes()[3:100])
    capsys.readouterr()
    assert site.run("keys", "remove", old) == 1
    told = capsys.readouterr().err
    assert "which key" in told
    assert "which keys a backup needs" in told


@pytest.mark.requirement("SRS-CLI-312")
def test_without_a_key_file_in_node_toml_the_command_says_so(site, capsys):
    """Usage, exit status 2."""
    site.config.write_text("[node]\n")
    assert site.run("keys", "new") == 2
    assert "encryption_key_file" in capsys.readouterr().err


@pytest.mark.requirement("SRS-CLI-311")
def test_a_listing_backup_names_the_store(site, tmp_path, capsys):
    """Its manifest is readable by whoever finds it in ten years."""
    site.run("keys", "new")
    site.receive()
    site.run("backup", str(tmp_path / "backups"))
    (manifest,) = (tmp_path / "backups").glob("*/manifest.json")
    told = json.loads(manifest.read_text())
    assert (told["version"], told["listed"], len(told["keys"])) == (1, "", 1)
