"""`cxr-node export`: studies leave without identity, and what was asked is in the audit trail."""

import csv
import stat
from datetime import UTC, datetime

import pytest
from pydicom import dcmread

from cxr_node.settings import load_settings
from storage import Database, audit, instances, results
from tests.cxr_node.cli.test_saving import Site

pytestmark = pytest.mark.requirement("SRS-CLI-322")

NAMES = (b"Planted", b"PLANTED", b"MRN-4711")


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    made.config.write_text('[node]\ndata_dir = "var"\n')
    return made


def planted(site: Site, **attributes: object) -> str:
    values = {
        "PatientName": "Planted^Jane",
        "PatientID": "MRN-4711",
        "InstitutionName": "PLANTED HOSPITAL",
        "BurnedInAnnotation": "NO",
    }
    return site.receive(**{**values, **attributes})


def test_images_and_labels_leave_without_a_name(site, tmp_path, capsys):
    """Files, file names, labels and what the command prints."""
    first, second = planted(site), planted(site, kind="CR", BurnedInAnnotation="NO")
    database = Database(load_settings(site.config, {}).database_url)
    with database.begin() as connection:
        (held,) = instances.of_study(connection, first)
        said = ("pneumonia-adult", "1.0.0", "d" * 64, "pneumonia", 0.7, 0.81, datetime.now(UTC))
        results.add_prediction(connection, results.Prediction(held.id, *said))
    database.dispose()
    target = tmp_path / "out"
    assert site.run("export", "--study", first, "--study", second, "--to", str(target)) == 0
    files = sorted(target.rglob("*.dcm"))
    assert len(files) == 2
    assert len({path.relative_to(target).parts[0] for path in files}) == 1, "both are of one patient"
    for file in target.rglob("*"):
        assert not any(name.decode() in file.name for name in NAMES)
        if file.is_file():
            assert not any(name in file.read_bytes() for name in NAMES)
            assert first.encode() not in file.read_bytes()
    with (target / "labels.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2
    scored = next(row for row in rows if row["finding"])
    assert (scored["finding"], float(scored["probability"])) == ("pneumonia", 0.81)
    made = dcmread(target / scored["file"])
    assert (scored["patient"], scored["sop_instance_uid"]) == (made.PatientID, made.SOPInstanceUID)
    assert not any(name.decode() in capsys.readouterr().out for name in NAMES)


def test_the_key_is_made_once_for_its_owner_and_a_later_export_agrees(site, tmp_path):
    """A study that comes next year belongs to the same patient."""
    uid = planted(site)
    for name in ("one", "two"):
        assert site.run("export", "--study", uid, "--to", str(tmp_path / name)) == 0
    one, two = ({str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*.dcm")} for name in
                ("one", "two"))  # fmt: skip
    assert one == two
    key = tmp_path / "var" / "export.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    assert site.run("export", "--study", uid, "--to", str(tmp_path / "three")) == 2
    assert not (tmp_path / "three").exists()


def test_an_image_that_may_show_text_stays_unless_it_is_asked_for(site, tmp_path, capsys):
    """Counted with the reason, so that nobody takes the export for complete."""
    shows, clean = planted(site, BurnedInAnnotation="YES"), planted(site)
    assert site.run("export", "--study", shows, "--study", clean, "--to", str(tmp_path / "out")) == 0
    told = capsys.readouterr().out
    assert "1 images of 1 studies" in told
    assert "left out: 1: (0028,0301) Burned In Annotation is YES" in told
    assert site.run("export", "--study", shows, "--to", str(tmp_path / "none")) == 1
    assert site.run("export", "--study", shows, "--to", str(tmp_path / "all"), "--allow-burned-in") == 0
    assert len(list((tmp_path / "all").rglob("*.dcm"))) == 1


def test_every_export_is_in_the_audit_trail_before_the_first_image_leaves(site, tmp_path):
    """Who took images out of the hospital is asked years later."""
    uid = planted(site)
    site.run("export", "--study", uid, "--to", str(tmp_path / "out"), "--keep-dates-shifted")
    database = Database(load_settings(site.config, {}).database_url)
    with database.read() as connection:
        (event,) = audit.newest(connection, "deidentified_export")
    database.dispose()
    assert event.detail == {"studies": 1, "dates": "shifted", "burned_in": False}


def test_since_takes_what_was_received_since(site, tmp_path, capsys):
    """A month for a research group."""
    planted(site)
    assert site.run("export", "--since", "2026-03-01", "--to", str(tmp_path / "march")) == 0
    assert "1 images of 1 studies" in capsys.readouterr().out
    assert site.run("export", "--since", "2026-03-02", "--to", str(tmp_path / "april")) == 0
    assert "0 images of 0 studies" in capsys.readouterr().out


def test_nothing_is_mixed_into_a_folder_that_holds_something(site, tmp_path, capsys):
    """Two exports in one folder could not be told apart."""
    uid = planted(site)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    assert site.run("export", "--study", uid, "--to", str(tmp_path / "out")) == 2
    assert site.run("export", "--study", "1.2.3", "--to", str(tmp_path / "new")) == 2
    assert "not here" in capsys.readouterr().err
