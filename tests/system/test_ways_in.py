"""The other ways in, with a real PACS: STOW-RS, a watched folder, and studies fetched on request."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from storage import Database, backfills, deliveries, studies
from storage.backfills import COMPLETED, FETCHED, FETCHING, SKIPPED
from tests.builders import make_radiograph_dataset, to_part_10
from tests.conftest import ROOT
from tests.system.conftest import Node, Orthanc, free_port, get_json, wait_until, with_own_uids

pytestmark = pytest.mark.peer("Orthanc", "ip")

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
DAY = "20240115"


@dataclass
class WebOrthanc(Orthanc):
    """Orthanc with DICOMweb, that knows the node by DIMSE and by STOW-RS."""

    stow_port: int = field(default_factory=free_port)

    def configuration(self) -> dict[str, Any]:
        return super().configuration() | {
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {
                "Enable": True,
                "Root": "/dicom-web/",
                "Servers": {"node": {"Url": f"http://127.0.0.1:{self.stow_port}/"}},
            },
        }


@pytest.fixture(scope="module")
def site(private_network, tmp_path_factory):
    """A node and Orthanc that know each other in every way."""
    if not PLUGIN.exists():
        pytest.skip("Orthanc has no DICOMweb plugin here")
    folder = tmp_path_factory.mktemp("ways")
    orthanc = WebOrthanc(folder / "pacs", node_port=free_port(), dicom_port=free_port(), http_port=free_port())
    (folder / "node" / "in").mkdir(parents=True)
    extra = (
        f'[receive.dicomweb]\nport = {orthanc.stow_port}\n[receive.watch]\npath = "in"\nsettle_s = 0.2\n'
        f'[[source]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {orthanc.dicom_port}\n'
        f'[[source]]\nname = "web"\nkind = "dicomweb"\nurl = "{orthanc.url}/dicom-web"\n'
        '[[source]]\nname = "gone"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\n'
    )
    destinations = [
        {"name": "out", "kind": "folder", "path": str(folder / "out"), "settle_s": 0.1, "objects": ["sr", "priority"]}
    ]
    node = Node(folder / "node", port=orthanc.node_port, destinations=destinations, extra=extra)
    orthanc.start()
    try:
        node.start()
        yield node, orthanc
    finally:
        node.stop()
        orthanc.stop()


def make_file(path: Path, **attributes) -> str:
    """Write a radiograph; return its Study Instance UID."""
    dataset = make_radiograph_dataset(**attributes)
    path.write_bytes(to_part_10(dataset))
    return str(dataset.StudyInstanceUID)


def command(node: Node, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "cxr_node", "--config", str(node.config), "backfill", *arguments]


def backfill(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(node, *arguments), capture_output=True, text=True, timeout=120, cwd=ROOT)


@pytest.fixture
def database(site):
    node, _ = site
    opened = Database(f"sqlite:///{node.folder / 'data' / 'cxr-node.db'}")
    yield opened
    opened.dispose()


@pytest.mark.requirement("SRS-SYS-601")
@pytest.mark.timeout(180)
def test_orthanc_pushes_by_stow_and_a_file_is_dropped(site, database, tmp_path):
    """Both studies get a result, as one that came by C-STORE."""
    node, orthanc = site
    pushed = make_file(tmp_path / "a.dcm", PatientID="STOW")
    study = orthanc.upload(tmp_path / "a.dcm")
    order = json.dumps({"Resources": [study], "Synchronous": True}).encode()
    get_json(f"{orthanc.url}/dicom-web/servers/node/stow", order)
    dropped = make_file(tmp_path / "b.dcm", PatientID="DROP")
    os.rename(tmp_path / "b.dcm", node.folder / "in" / "b.dcm")
    node.wait_for(pushed)
    node.wait_for(dropped)
    with database.read() as connection:
        assert studies.get(connection, pushed).calling_ae_title == "STOW-RS"
        assert studies.get(connection, dropped).calling_ae_title == "FOLDER"
    assert list((node.folder / "in").iterdir()) == []
    assert {pushed, dropped} <= {item["study_instance_uid"] for item in node.studies()}


@pytest.mark.requirement("SRS-SYS-601")
@pytest.mark.real_data
@pytest.mark.timeout(180)
def test_real_files_come_in_both_ways(site, tmp_path, shared_data):
    """As modalities and archives write them, compressed ones too."""
    node, orthanc = site
    uids = []
    for number, source in enumerate(sorted((shared_data / "dicom").glob("*.dcm"))[:6]):
        path = tmp_path / f"{number}.dcm"
        uids.append(str(with_own_uids(source, path).StudyInstanceUID))
        if number % 2:
            os.rename(path, node.folder / "in" / path.name)
        else:
            order = json.dumps({"Resources": [orthanc.upload(path)], "Synchronous": True}).encode()
            get_json(f"{orthanc.url}/dicom-web/servers/node/stow", order)
    assert len(uids) == 6
    for uid in uids:
        node.wait_for(uid)


@pytest.mark.requirement("SRS-SYS-602", "SRS-CLI-601", "SRS-FET-001", "SRS-FET-005")
@pytest.mark.parametrize(("source", "day"), [("pacs", "20240201"), ("web", "20240301")])
@pytest.mark.timeout(240)
def test_studies_of_the_past_are_fetched_and_stay_off_the_worklist(site, database, tmp_path, source, day):
    """Found by day and modality, fetched whole, analysed, reported; no priority leaves, the live list is as it was."""
    node, orthanc = site
    uids = []
    for number in range(3):
        path = tmp_path / f"{number}.dcm"
        attributes = {"StudyDate": day, "PatientID": f"OLD{number}"}
        if number == 2:
            attributes["RequestedProcedurePriority"] = "STAT"
        uids.append(make_file(path, **attributes))
        orthanc.upload(path)
    second = make_file(tmp_path / "more.dcm", StudyInstanceUID=uids[0], StudyDate=day, PatientID="OLD0")
    assert second == uids[0]
    orthanc.upload(tmp_path / "more.dcm")
    other = make_file(tmp_path / "ct.dcm", StudyDate=day, Modality="CT")
    orthanc.upload(tmp_path / "ct.dcm")
    live = make_file(tmp_path / "live.dcm", StudyDate=day)
    orthanc.push(orthanc.upload(tmp_path / "live.dcm"))
    node.wait_for(live)
    before = [item["study_instance_uid"] for item in node.studies()]

    shown = backfill(node, "--from", source, "--dates", day, "--modality", "DX", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert all(uid in shown.stdout for uid in [*uids, live])
    assert other not in shown.stdout

    done = backfill(node, "--from", source, "--dates", day, "--modality", "DX", "--rate", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"FETCHED  {uid}" in done.stdout for uid in uids)
    with database.read() as connection:
        run = backfills.listed(connection)[0]
        found = {study.study_instance_uid: study.state for study in backfills.studies_of(connection, run.id)}
        assert run.state == COMPLETED
        assert found == {**dict.fromkeys(uids, FETCHED), live: SKIPPED}
        assert backfills.arrived(connection, uids[0]) == 2
    for uid in uids:
        assert node.wait_for(uid)["origin"] == "backfill"
        wait_until(lambda uid=uid: _reported(database, uid), 30, "the report of a fetched study")
        with database.read() as connection:
            assert {item.kind for item in deliveries.of_study(connection, uid)} == {"sr"}
    with database.read() as connection:
        assert "priority" in {item.kind for item in deliveries.of_study(connection, live)}, "a live study's leaves"
    assert [item["study_instance_uid"] for item in node.studies()] == before
    assert list((node.folder / "data" / "instances" / "incoming").glob("*")) == []

    again = backfill(node, "--from", source, "--dates", day, "--modality", "DX", "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout.splitlines()[-1])
    assert (summary["SKIPPED"], summary["FETCHED"], summary["completed"]) == (4, 0, True)


def _reported(database: Database, uid: str) -> bool:
    with database.read() as connection:
        return any(
            item.kind == "sr" and item.state in ("DELIVERED", "COMMITTED")
            for item in deliveries.of_study(connection, uid)
        )


@pytest.mark.requirement("SRS-SYS-603", "SRS-CLI-601", "SRS-FET-004")
@pytest.mark.timeout(240)
def test_a_run_that_was_killed_goes_on(site, database, tmp_path):
    """kill -9 in the middle; resumed, each study is here once, and none was asked for that was whole."""
    node, orthanc = site
    day = "20240401"
    uids = set()
    for number in range(12):
        uids.add(make_file(tmp_path / f"{number}.dcm", StudyDate=day, PatientID=f"K{number}"))
        orthanc.upload(tmp_path / f"{number}.dcm")
    arguments = ("--from", "pacs", "--dates", day, "--rate", "240")
    process = subprocess.Popen(command(node, *arguments), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    for _ in range(4):
        line = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    assert "FETCHED" in line
    with database.begin() as connection:
        run = backfills.listed(connection)[0].id
        counted = backfills.counts(connection, run)
        assert 0 < counted[FETCHED] < 12
        # As if the kill had come a moment later.
        backfills.begin(
            connection,
            run,
            backfills.studies_of(connection, run, ["PLANNED"])[0].study_instance_uid,
            now=backfills.get(connection, run).created_at,
        )
        assert backfills.counts(connection, run)[FETCHING] >= 1
    listed = backfill(node, "--list")
    assert "RUNNING" in listed.stdout
    resumed = backfill(node, "--resume", str(run), "--rate", "0")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert resumed.stdout.count("FETCHED  ") == 12 - counted[FETCHED]
    with database.read() as connection:
        assert backfills.counts(connection, run)[FETCHED] == 12
        assert all(backfills.arrived(connection, uid) == 1 for uid in uids)


@pytest.mark.requirement("SRS-CLI-601", "SRS-FET-003")
@pytest.mark.timeout(120)
def test_wrong_usage_and_a_source_that_is_gone_are_told(site):
    """Status 2 for what a person wrote wrong, 1 for what failed, each with a sentence."""
    node, _ = site
    for arguments, said in (
        ((), "expected --from NAME and --dates"),
        (("--from", "nobody", "--dates", DAY), "it has: pacs, web, gone"),
        (("--from", "pacs", "--dates", "2024"), "--dates: expected YYYYMMDD"),
        (("--resume", "9999"), "there is no run 9999"),
    ):
        done = backfill(node, *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr
    started = time.monotonic()
    done = backfill(node, "--from", "gone", "--dates", DAY)
    assert done.returncode == 1
    assert "gone: PACS at 127.0.0.1:9 does not answer" in done.stderr
    assert time.monotonic() - started < 60
