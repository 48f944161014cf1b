"""A whole node as a process, and the peers around it, in a network of their own where they cannot bind to loopback."""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import generate_uid

from cxr_node.inference import BUILTIN
from tests.conftest import ROOT, find_program

CLONE_NEWNET = 0x40000000
PATIENCE = 3

# What a node has made of the released packages; the next start with it, as a restarted node does. Kept from run to run:
# a node takes only what verifies, and makes anew what was made with other libraries.
MADE = ROOT / ".pytest_cache" / "cxr-made"


def put_made(cache: Path) -> None:
    """Give a node what another one has made, where there is something."""
    for made in MADE.glob("[!.]*"):
        shutil.copytree(made, cache / made.name)


def keep_made(cache: Path) -> None:
    """Keep what a node has made of the released packages; renamed, for other test processes may look."""
    for manifest in BUILTIN.glob("*/manifest.json"):
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
        if all((cache / digest / form / "made.json").is_file() for form in ("savedmodel", "litert")):
            MADE.mkdir(parents=True, exist_ok=True)
            copy, statement = MADE / f".{digest}-{os.getpid()}", Path(digest, "litert", "made.json")
            with contextlib.suppress(OSError):
                if (MADE / statement).read_bytes() == (cache / statement).read_bytes():
                    continue
            shutil.copytree(cache / digest, copy)
            shutil.rmtree(MADE / digest, ignore_errors=True)  # made with other libraries
            with contextlib.suppress(OSError):  # another process was faster
                copy.rename(MADE / digest)
            shutil.rmtree(copy, ignore_errors=True)


def free_port() -> int:
    """Return a port that is free on loopback now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], within_s: float, what: str, every_s: float = 0.05) -> Any:
    """Return the condition's first true value; fail with `what` when it takes longer.

    `within_s` is what a machine of two quiet cores needs at most; a loaded one is given three times that.
    """
    deadline = time.monotonic() + PATIENCE * within_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"not within {PATIENCE * within_s:g} s: {what}")


def get_json(url: str, data: bytes | None = None, method: str | None = None) -> Any:
    """Ask and decode; None where nobody answers."""
    request = urllib.request.Request(url, data=data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError:
        raise
    except OSError:
        return None


@dataclass
class Node:
    """A running `cxr-node serve`."""

    folder: Path
    profile: str = "triage"
    destinations: list[dict[str, Any]] = field(default_factory=list)
    extra: str = ""
    require_token: str = "never"
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    dicom_port: int = field(default_factory=free_port)

    @property
    def config(self) -> Path:
        return self.folder / "node.toml"

    @property
    def log_path(self) -> Path:
        return self.folder / "node.log"

    @property
    def console_path(self) -> Path:
        return self.folder / "console.txt"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    def start(self) -> None:
        cache = self.folder / "data" / "cache"
        cache.parent.mkdir(parents=True, exist_ok=True)
        if not cache.exists():
            put_made(cache)
        lines = [
            f'[node]\nprofile = "{self.profile}"\ndata_dir = "data"\n',
            f"[receive]\nport = {self.port}\nmin_free_gb = 0.1\n",
            f"[worklist]\nport = {self.web_port}\ndicom_port = {self.dicom_port}\n"
            f'require_token = "{self.require_token}"\n',
            self.extra,
        ]
        for destination in self.destinations:
            lines.append(
                "[[destination]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in destination.items())
            )
        self.config.write_text("\n".join(lines))
        with self.log_path.open("ab") as log, self.console_path.open("ab") as console:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cxr_node", "--config", str(self.config), "serve"],
                stdout=console,
                stderr=log,
                cwd=ROOT,
            )
        try:
            wait_until(self.is_ready, 120, f"node ready; log:\n{self.log_path.read_text()[-3000:]}")
            keep_made(cache)
        except AssertionError:
            self.stop()
            raise

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_path.read_text()[-3000:]
        try:
            if get_json(f"{self.url}/readyz") is None:
                return False
        except urllib.error.HTTPError:
            return False
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        log = self.log_path.read_bytes()
        # Readiness does not wait for the last two: nobody does who has an image. Tests that end a process do.
        return all(f'"{stage}_ready"'.encode() in log for stage in ("analyze", "deliver", "upkeep"))

    def stop(self) -> float:
        """End it as a service manager does; return how long that took."""
        if self.process is None:
            return 0.0
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        self.process = None
        return time.monotonic() - started

    def log_lines(self) -> list[dict[str, Any]]:
        lines = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                lines.append(json.loads(line))
        return lines

    def pids(self, stage: str) -> list[int]:
        """Return the stage's living processes, from the supervisor's children."""
        assert self.process is not None
        pids = []
        for pid in _children(self.process.pid):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if stage.encode() in command:
                pids.append(pid)
        return pids

    def study(self, uid: str) -> Any:
        try:
            return get_json(f"{self.url}/api/studies/{uid}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def studies(self) -> list[Any]:
        found = get_json(f"{self.url}/api/studies?limit=1000")
        return found["studies"] if isinstance(found, dict) else found

    def wait_for(self, uid: str, within_s: float = 30, revision: int = 1) -> Any:
        """Return the study once it has a result of that revision."""

        def settled() -> Any:
            study = self.study(uid)
            return study if study and study["status"] != "pending" and study["revision"] >= revision else None

        return wait_until(settled, within_s, f"result of study {uid}; log:\n{self.log_path.read_text()[-3000:]}")

    def send(
        self, *paths: Path, options: tuple[str, ...] = ("-R", "-xs"), ae_title: str = "CR_ROOM_1"
    ) -> subprocess.CompletedProcess[str]:
        """Send with DCMTK's storescu."""
        return subprocess.run(
            [
                "storescu",
                "-v",
                "-aet",
                ae_title,
                "-aec",
                "CXR_NODE",
                *options,
                "127.0.0.1",
                str(self.port),
                *map(str, paths),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Start nodes; each is ended by its process id."""
    nodes: list[Node] = []

    def start(**options: Any) -> Node:
        node = Node(folder=tmp_path / f"node{len(nodes)}", **options)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture(scope="module")
def private_network() -> Iterator[None]:
    """Put this thread, and what it starts, into a network namespace that has nothing but loopback."""
    if os.geteuid() != 0 or find_program("ip") is None:
        pytest.skip("a network namespace needs root and iproute2")
    name = f"cxr-test-{os.getpid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "netns", "exec", name, "ip", "link", "set", "lo", "up"], check=True)
        with open("/proc/self/ns/net") as before, open(f"/var/run/netns/{name}") as inside:
            assert libc.setns(inside.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(before.fileno(), CLONE_NEWNET) == 0
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@dataclass
class Orthanc:
    """Orthanc as the PACS: REST on loopback, storage in a temporary folder."""

    folder: Path
    node_port: int
    dicom_port: int = 4242
    http_port: int = 8043
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def configuration(self) -> dict[str, Any]:
        """What it is started with; a PACS that differs says in what."""
        return {
            "Name": "PACS",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "DicomAet": "PACS",
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "Plugins": [],
            "DicomModalities": {"node": ["CXR_NODE", "127.0.0.1", self.node_port]},
        }

    def is_up(self) -> bool:
        """Whether it answers."""
        return get_json(f"{self.url}/system") is not None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.configuration()))
        program = find_program("Orthanc")
        assert program is not None
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([program, "--verbose", str(path)], stdout=log, stderr=log)
        wait_until(self.is_up, 30, "Orthanc ready")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def upload(self, path: Path) -> str:
        """Store a file, return Orthanc's id of its study."""
        return str(get_json(f"{self.url}/instances", path.read_bytes())["ParentStudy"])

    def push(self, study: str) -> None:
        """Have Orthanc send the study to the node by C-STORE."""
        answer = get_json(
            f"{self.url}/modalities/node/store", json.dumps({"Resources": [study], "Synchronous": True}).encode()
        )
        assert answer["FailedInstancesCount"] == 0, answer

    def reports(self, study_instance_uid: str) -> list[dict[str, Any]]:
        """Return the simplified tags of the SR instances under the study."""
        found = get_json(
            f"{self.url}/tools/find",
            json.dumps(
                {
                    "Level": "Instance",
                    "Expand": False,
                    "Query": {"StudyInstanceUID": study_instance_uid, "Modality": "SR"},
                }
            ).encode(),
        )
        return [get_json(f"{self.url}/instances/{item}/simplified-tags") | {"_id": item} for item in found]

    def download(self, instance: str, path: Path) -> Path:
        with urllib.request.urlopen(f"{self.url}/instances/{instance}/file", timeout=60) as answer:
            path.write_bytes(answer.read())
        return path


def with_own_uids(source: Path, target: Path, **attributes: Any) -> pydicom.Dataset:
    """Copy a file under new study, series and instance UIDs, attributes changed as told (None deletes)."""
    dataset = pydicom.dcmread(source)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (generate_uid() for _ in range(3))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if len(dataset.get("PixelData", b"")) % 2:
        # One file's fragment has an odd length, which no toolkit would send: padded, as PS3.5 A.4 asks.
        dataset.PixelData = encapsulate(list(generate_frames(dataset.PixelData, number_of_frames=1)))
    for keyword, value in attributes.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(target)
    return dataset
