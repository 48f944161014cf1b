"""The DICOM Conformance Statement against the wire: what running stages accept is what it says, no more and no less."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, UID_dictionary
from pynetdicom import AE, build_context, build_role
from pynetdicom.presentation import PresentationContext

from cxr_node.cli.conformance.services import SCU, Listener, listeners
from cxr_node.requestor import associate
from cxr_node.settings import Settings, load_settings
from storage import Database
from tests.system.conftest import free_port, wait_until

# Every SOP class and transfer syntax that the standard has, retired ones included.
SOP_CLASSES = sorted(uid for uid, entry in UID_dictionary.items() if entry[1] in ("SOP Class", "Meta SOP Class"))
TRANSFER_SYNTAXES = sorted(uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax")
MOST_CONTEXTS = 128  # presentation context ids are odd numbers up to 255


@dataclass(frozen=True)
class Running:
    """Two stages with the default configuration but for ports and folder."""

    settings: Settings
    environment: dict[str, str]
    folder: Path

    def listener(self, key: str) -> Listener:
        """What the statement says of a port."""
        (found,) = [item for item in listeners(self.settings) if item.key == key]
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`cxr-node receive` and `cxr-node worklist`, each a process."""
    folder = tmp_path_factory.mktemp("conformance")
    changed = {
        "CXR_NODE__NODE__DATA_DIR": str(folder / "data"),
        "CXR_NODE__RECEIVE__PORT": str(free_port()),
        "CXR_NODE__RECEIVE__MIN_FREE_GB": "0.01",
        "CXR_NODE__WORKLIST__PORT": str(free_port()),
        "CXR_NODE__WORKLIST__DICOM_PORT": str(free_port()),
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CXR_NODE__")}
    settings = load_settings(None, changed)
    settings.data_dir.mkdir(parents=True)
    database = Database(settings.database_url)
    database.migrate()
    database.dispose()
    environment = kept | changed
    processes = []
    try:
        for stage in ("receive", "worklist"):
            with (folder / f"{stage}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "cxr_node", stage], cwd=folder, env=environment, stdout=log, stderr=log
                    )
                )
        for listener in listeners(settings):
            wait_until(lambda port=listener.port: _listens(port), 30, f"{listener.key} listens")
        yield Running(settings, environment, folder)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _accepted(
    listener: Listener, offered: Sequence[PresentationContext], *, with_roles: bool = False
) -> list[PresentationContext]:
    """Return what the port accepts of the contexts, over as many associations as they need."""
    found: list[PresentationContext] = []
    for start in range(0, len(offered), MOST_CONTEXTS):
        part = list(offered[start : start + MOST_CONTEXTS])
        roles = [build_role(str(item.abstract_syntax), scu_role=True, scp_role=True) for item in part]
        ae = AE(ae_title="CONFORMANCE")
        ae.acse_timeout = ae.network_timeout = 60
        association = associate(
            ae,
            "127.0.0.1",
            listener.port,
            contexts=part,
            ae_title=listener.ae_title,
            ext_neg=roles if with_roles else None,
        )
        assert not association.is_rejected, f"{listener.key} rejects an association"
        found += association.accepted_contexts
        if association.is_established:
            association.release()
    return found


@pytest.mark.requirement("SRS-REG-070")
@pytest.mark.parametrize("key", ["receive", "worklist"])
def test_the_classes_accepted_are_those_of_the_statement(running, key):
    """Every SOP class of the standard is offered: one that is taken and not stated is a hole, one that is stated and
    not taken an image that a site was promised."""
    listener = running.listener(key)
    offered = [build_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]) for uid in SOP_CLASSES]
    accepted = {str(item.abstract_syntax) for item in _accepted(listener, offered)}
    assert accepted == {item.sop_class_uid for item in listener.contexts}
    assert len(accepted) < len(SOP_CLASSES) / 4  # most were refused, so the comparison can fail


@pytest.mark.requirement("SRS-REG-070")
@pytest.mark.parametrize("key", ["receive", "worklist"])
def test_each_class_is_accepted_in_the_transfer_syntaxes_of_the_statement(running, key):
    """Each stated class in every transfer syntax of the standard, one presentation context each."""
    listener = running.listener(key)
    pairs = [(item.sop_class_uid, syntax) for item in listener.contexts for syntax in TRANSFER_SYNTAXES]
    accepted = {
        (str(item.abstract_syntax), str(item.transfer_syntax[0]))
        for item in _accepted(listener, [build_context(*pair) for pair in pairs])
    }
    assert accepted == {pair for pair in pairs if listener.takes(*pair)}
    assert set(pairs) - accepted


@pytest.mark.requirement("SRS-REG-070")
@pytest.mark.parametrize("key", ["receive", "worklist"])
def test_roles_are_those_of_the_statement(running, key):
    """Whoever proposes to be the SCP hears whether the node can be the SCU."""
    listener = running.listener(key)
    offered = [build_context(item.sop_class_uid, item.transfer_syntaxes[0]) for item in listener.contexts]
    accepted = {str(item.abstract_syntax): item for item in _accepted(listener, offered, with_roles=True)}
    assert {uid: (item.as_scu, item.as_scp) for uid, item in accepted.items()} == {
        item.sop_class_uid: (True, SCU in item.roles) for item in listener.contexts
    }


@pytest.mark.requirement("SRS-REG-071")
def test_the_command_prints_the_statement_of_the_sites_own_configuration(running):
    """A site hands in its own: ports, titles and destinations of its file, not those of ours."""
    destination = '[{name="archive", ae_title="ARCHIVE", host="192.0.2.10", port=4242}]'
    done = subprocess.run(
        [sys.executable, "-m", "cxr_node", "conformance"],
        cwd=running.folder,
        env=running.environment | {"CXR_NODE__DESTINATION": destination, "CXR_NODE__RECEIVE__AE_TITLE": "WARD_7"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("| STORAGE | WARD_7 |") for line in lines)
    assert f"| STORAGE | 127.0.0.1 | {running.settings.receive.port} | TCP, no TLS |" in lines
    assert "| destination archive | ARCHIVE | 192.0.2.10 | 4242 |" in lines
    (sent,) = [line for line in lines if line.startswith("| Send result objects | WARD_7 |")]
    assert sent.endswith("| archive |")
