"""A node that starts for the first time: intake takes images while the models are still converted."""

import fcntl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pynetdicom.ae import ApplicationEntity as AE

from cxr_node.requestor import associate
from tests.builders import make_radiograph_dataset
from tests.system.conftest import Node, keep_made, put_made, wait_until


@dataclass
class FirstStart(Node):
    """Counts as started once intake answers."""

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_path.read_text()[-3000:]
        return b'"receive_ready"' in self.log_path.read_bytes() and self.readiness() != ""

    def readiness(self) -> str:
        """Return what `/readyz` answers; empty where nobody does."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FirstStart]:
    node = FirstStart(tmp_path / "node")
    node.folder.mkdir()
    yield node
    node.stop()


@pytest.mark.requirement("SRS-SYS-203")
def test_intake_answers_while_models_are_converted_and_readiness_says_so(node):
    """A modality that is refused for a minute tells its user; one that waits a minute for a priority tells nobody."""
    cache = node.folder / "data" / "cache"
    cache.mkdir(parents=True)
    with (cache / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # as if another process converted: for as long as this test wants
        node.start()
        wait_until(lambda: "analyze: loading models" in node.readiness(), 60, f"the reason; {node.readiness()}")
        assert "not ready" in node.readiness()

        dataset = make_radiograph_dataset()
        ae = AE(ae_title="CR_ROOM_1")
        ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = associate(ae, "127.0.0.1", node.port, ae_title="CXR_NODE")
        assert association.is_established
        status = association.send_c_store(dataset)
        association.release()
        assert status.Status == 0x0000
        assert b'"analyze_ready"' not in node.log_path.read_bytes()

        put_made(cache)  # where a node has converted before; else it is done now
    wait_until(lambda: '"status":"ready"' in node.readiness(), 240, f"ready; {node.readiness()}", every_s=0.2)
    keep_made(cache)
    node.wait_for(str(dataset.StudyInstanceUID), within_s=60)
