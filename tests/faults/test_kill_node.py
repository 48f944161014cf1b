"""A whole node under its own supervisor, killed once in each stage of the line while one study passes."""

from pathlib import Path

import pytest
from pydicom import dcmwrite

from storage import Database, jobs
from storage.faults import FOLDER_VARIABLE, VARIABLE
from tests.cxr_node.deliver.conftest import Pacs, serving
from tests.faults.conftest import small_radiograph, store_until_success
from tests.faults.test_kill_deliver import check_received
from tests.system.conftest import Node, free_port, wait_until

pytestmark = [pytest.mark.requirement("SRS-FLT-006"), pytest.mark.timeout(400)]

ON_THE_LINE = ("receive.after-commit", "analyze.before-commit", "deliver.sent", "worklist.events-kept")


def test_a_study_passes_a_node_that_is_killed_in_every_stage(tmp_path, monkeypatch):
    """Released models, a supervisor that restarts, a PACS that counts."""
    armed = tmp_path / "armed"
    armed.mkdir()
    for point in ON_THE_LINE:
        (armed / point).touch()
    monkeypatch.setenv(VARIABLE, ",".join(f"{point}:kill" for point in ON_THE_LINE))
    monkeypatch.setenv(FOLDER_VARIABLE, str(armed))
    dataset = small_radiograph()
    uid = str(dataset.StudyInstanceUID)
    dcmwrite(tmp_path / "image.dcm", dataset, enforce_file_format=True)
    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "commit": False}
        one_model = '[analyze]\nmodels = ["pneumonia-adult"]\n'  # each takes long at its first start
        node = Node(tmp_path / "node", destinations=[{**to, "settle_s": 0.0}], extra=one_model)
        try:
            node.start()
            store_until_success(node.port, dataset)
            study = node.wait_for(uid, 120)
            assert (study["status"], study["revision"]) == ("analysed", 1)
            wait_until(lambda: not list(armed.iterdir()), 120, f"every stage killed; left {list(armed.iterdir())}")
            wait_until(lambda: _states(node, uid) == ["DELIVERED"], 120, "the delivery")
            wait_until(lambda: _open(node) == {}, 60, "the queue empty")
            died = [line["stage_name"] for line in node.log_lines() if line.get("event") == "stage_died"]
            named = {tuple(line["points"]) for line in node.log_lines() if line.get("event") == "fault_points_named"}
        finally:
            node.stop()
    assert sorted(died) == ["analyze", "deliver", "receive", "worklist"]
    assert named == {ON_THE_LINE}, "whoever starts a node with faults is told so"
    assert len({item.sop_instance_uid for item in pacs.received}) == 1
    check_received(pacs, {pacs.received[0].sop_instance_uid})
    assert len(pacs.received) == 2


def _states(node: Node, uid: str) -> list[str]:
    return [item["state"] for item in (node.study(uid) or {"deliveries": []})["deliveries"]]


def _open(node: Node) -> dict[tuple[str, str], int]:
    """Jobs of studies that wait, run, or were given up."""
    database = Database(f"sqlite:///{Path(node.folder) / 'data' / 'cxr-node.db'}")
    try:
        with database.read() as connection:
            found = jobs.counts(connection)
    finally:
        database.dispose()
    return {key: count for key, count in found.items() if key[1] != jobs.COMPLETED and key[0] != "upkeep"}
