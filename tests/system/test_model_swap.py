"""An admin activates another model on a running node: no restart, no study lost, the next one is looked at by it."""

import json
import shutil
import urllib.request

import numpy as np
import pytest

from cxr_node.cli.phantom import phantom_dataset
from cxr_node.clock import utc_now
from cxr_node.inference.package import BUILTIN
from storage import Database, tokens
from tests.system.conftest import wait_until

SECRET = "a-secret-of-an-admin-for-this-test"


def put_next(folder):
    """A newer version of the released package: the same network with another name and threshold."""
    package = folder / "pneumonia-adult-next"
    shutil.copytree(BUILTIN / "pneumonia-adult", package)
    manifest = json.loads((package / "manifest.json").read_text("utf-8"))
    manifest["name"], manifest["version"] = package.name, "9.9.9"
    (package / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def ask(node, path, body=None):
    """Ask the API as the admin."""
    request = urllib.request.Request(
        f"{node.url}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def send(node, folder, number):
    """Send a drawn study and return the model that looked at it."""
    dataset = phantom_dataset(utc_now(), np.random.default_rng(number), opacity=1.0, accession_number=f"A{number}")
    path = folder / f"{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert node.send(path).returncode == 0
    study = node.wait_for(str(dataset.StudyInstanceUID), within_s=60)
    assert study["status"] == "analysed", study
    return study["findings"][0]["model"]


@pytest.mark.requirement("SRS-ADM-204")
@pytest.mark.peer("storescu")
def test_a_model_is_activated_on_a_running_node(start_node, tmp_path):
    """Nobody can choose a quiet hour in a hospital."""
    put_next(tmp_path / "node0" / "data" / "packages")
    node = start_node()
    database = Database(f"sqlite:///{node.folder / 'data' / 'cxr-node.db'}")
    with database.begin() as connection:
        tokens.create(connection, "ada", "admin", now=utc_now(), secret=SECRET)
    database.dispose()
    workers = node.pids("analyze")
    assert send(node, tmp_path, 1) == "pneumonia-adult"
    asked = {"state": "active", "instead": "shadow"}
    plan = ask(node, "/api/models/pneumonia-adult-next/plan", asked)
    assert plan["replaced"] == ["pneumonia-adult"]
    confirmed = {"token": plan["token"], "typed": "pneumonia-adult-next", "reason": "the newer one"}
    ask(node, "/api/models/pneumonia-adult-next/change", asked | confirmed)
    assert send(node, tmp_path, 2).startswith("pneumonia-adult"), "while it is loaded the old one goes on"
    wait_until(lambda: ask(node, "/api/models")["is_taken_up"], 120, f"swap; log:\n{node.log_path.read_text()[-2000:]}")
    assert send(node, tmp_path, 3) == "pneumonia-adult-next"
    assert node.pids("analyze") == workers
