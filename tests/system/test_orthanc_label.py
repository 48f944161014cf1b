"""Labels in a real Orthanc: that of Debian 12 is 1.10 and has none, so it gets metadata; a newer one gets labels."""

import json
import subprocess
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cxr_node.deliver.orthanc_label import has_labels
from cxr_node.deliver.policy import NotTakenYet
from cxr_node.errors import Refused
from cxr_node.settings import Destination
from tests.builders import make_radiograph_dataset, to_part_10
from tests.conftest import find_program
from tests.cxr_node.deliver.conftest import Node
from tests.cxr_node.deliver.peers import make_notice, plan_notice
from tests.system.conftest import Orthanc, get_json, wait_until

pytestmark = [
    pytest.mark.requirement("SRS-DLV-209"),
    pytest.mark.peer("Orthanc"),
    pytest.mark.usefixtures("private_network"),
]


@dataclass
class LabelOrthanc(Orthanc):
    """One that registers the metadata of the label."""

    registered: str = "ai-priority"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
            "UserMetadata": {self.registered: 1024},
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(configuration))
        program = find_program("Orthanc")
        assert program is not None
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([program, str(path)], stdout=log, stderr=log)
        wait_until(lambda: get_json(f"{self.url}/system"), 30, "Orthanc ready")

    def marks(self, study: str) -> list[str]:
        """Labels and user metadata of the study."""
        found: list[str] = list(get_json(f"{self.url}/studies/{study}/metadata"))
        try:
            return found + list(get_json(f"{self.url}/studies/{study}/labels"))
        except urllib.error.HTTPError:
            return found


@pytest.fixture(scope="module")
def orthanc(private_network, tmp_path_factory) -> Iterator[LabelOrthanc]:
    running = LabelOrthanc(tmp_path_factory.mktemp("orthanc"), node_port=0)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    made.database.migrate()
    yield made
    made.database.dispose()


def upload(orthanc, tmp_path, **attributes):
    """Store a radiograph there; return its dataset and Orthanc's id of the study."""
    dataset = make_radiograph_dataset(**attributes)
    path = tmp_path / f"{dataset.SOPInstanceUID}.dcm"
    path.write_bytes(to_part_10(dataset))
    return dataset, orthanc.upload(path)


def send(node, orthanc, label="ai-priority", **changes):
    destination = Destination(name="orthanc", kind="orthanc-label", url=orthanc.url, label=label, timeout_s=5)
    return node.sender(destination).send(node.stored(plan_notice(node, "orthanc", make_notice(**changes))))


def test_a_flagged_study_is_marked_in_orthanc_and_again_without_harm(node, orthanc, tmp_path):
    """As a label where this Orthanc has them, else as metadata, which the delivery then says."""
    dataset, study = upload(orthanc, tmp_path)
    version = get_json(f"{orthanc.url}/system")["Version"]
    for revision in (1, 2):
        sent = send(node, orthanc, study_instance_uid=str(dataset.StudyInstanceUID), revision=revision)
        assert sent.reason == (
            "" if has_labels(version) else f"set as metadata: Orthanc {version} has no labels, 1.12 and later do"
        )
        assert "ai-priority" in orthanc.marks(study)


def test_a_study_that_is_not_flagged_or_not_there_is_not_marked(node, orthanc, tmp_path):
    """Nothing is said of it; and the archive may be slower than the node."""
    dataset, study = upload(orthanc, tmp_path)
    assert send(node, orthanc, study_instance_uid=str(dataset.StudyInstanceUID), flagged=False).skipped
    assert "ai-priority" not in orthanc.marks(study)
    with pytest.raises(NotTakenYet, match="does not have the study yet"):
        send(node, orthanc, study_instance_uid="1.2.826.0.1.3680043.8.498.1")


def test_of_two_patients_under_one_study_uid_the_right_one_is_marked(node, orthanc, tmp_path):
    """Orthanc makes two studies of it and says Success."""
    dataset, study = upload(orthanc, tmp_path)
    _, other = upload(orthanc, tmp_path, PatientID="P2", StudyInstanceUID=str(dataset.StudyInstanceUID))
    send(node, orthanc, study_instance_uid=str(dataset.StudyInstanceUID))
    assert "ai-priority" in orthanc.marks(study)
    assert "ai-priority" not in orthanc.marks(other)


def test_an_old_orthanc_without_the_metadata_says_what_to_register(node, orthanc, tmp_path):
    """The administrator reads one sentence and knows what to write into Orthanc's configuration."""
    if has_labels(get_json(f"{orthanc.url}/system")["Version"]):
        pytest.skip("this Orthanc has labels")
    dataset, _ = upload(orthanc, tmp_path)
    with pytest.raises(Refused, match=r'register "UserMetadata": \{"other": 1024\} there'):
        send(node, orthanc, "other", study_instance_uid=str(dataset.StudyInstanceUID))
