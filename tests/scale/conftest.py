"""Hosts of one node in network namespaces, each with a data folder of its own; they share a database and a store.

```
sw      a switch: a bridge that every host hangs on, and nothing else: no address here leads out of the machine
shared  PostgreSQL, an S3 store (moto), a PACS (DCMTK's storescp)
a b c … hosts of the node, hostname and network their own; a cable can be pulled and plugged in again
```
"""

import contextlib
import itertools
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from storage import Database
from tests.conftest import ROOT, find_program
from tests.storage.conftest import (  # noqa: F401  # fixtures
    database,
    find_server_program,
    postgresql_database,
    postgresql_server,
    postgresql_template,
    sqlite_database,
    sqlite_template,
)
from tests.system.conftest import keep_made, put_made, wait_until

SHARED = "10.213.7.1"
PORT_DATABASE, PORT_STORE, PORT_PACS = 5432, 5000, 11114
PORT_RECEIVE, PORT_WEB, PORT_WORKLIST = 11112, 8042, 11113
_NUMBERS = itertools.count(1)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@dataclass
class Network:
    """A switch and the hosts on it."""

    name: str
    members: list[str] = field(default_factory=list)

    def open(self) -> None:
        _run("ip", "netns", "add", self._namespace("sw"))
        self._in("sw", "link", "add", "br0", "type", "bridge")
        self._in("sw", "link", "set", "br0", "up")

    def add(self, host: str, address: str) -> None:
        """Make a host with an address and plug it in."""
        _run("ip", "netns", "add", self._namespace(host))
        self.members.append(host)
        _run(
            *("ip", "link", "add", "eth0", "netns", self._namespace(host), "type", "veth"),
            *("peer", "name", f"to-{host}", "netns", self._namespace("sw")),
        )
        self._in("sw", "link", "set", f"to-{host}", "master", "br0", "up")
        self._in(host, "link", "set", "lo", "up")
        self._in(host, "address", "add", f"{address}/24", "dev", "eth0")
        self._in(host, "link", "set", "eth0", "up")

    def cut(self, host: str) -> None:
        """Pull the host's cable: what it sends vanishes, nobody is told."""
        self._in("sw", "link", "set", f"to-{host}", "down")

    def mend(self, host: str) -> None:
        """Plug it in again."""
        self._in("sw", "link", "set", f"to-{host}", "up")

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` on the host, under the host's name."""
        named = ["unshare", "--uts", "sh", "-c", f'hostname host-{host} && exec "$@"', "sh", *command]
        return ["ip", "netns", "exec", self._namespace(host), *named]

    def close(self) -> None:
        for host in [*self.members, "sw"]:
            subprocess.run(["ip", "netns", "delete", self._namespace(host)], capture_output=True)

    def _namespace(self, host: str) -> str:
        return f"{self.name}-{host}"

    def _in(self, host: str, *command: str) -> None:
        _run("ip", "-n", self._namespace(host), *command)


@dataclass
class Host:
    """One host of the node: some of its stages, each a process."""

    name: str
    address: str
    folder: Path
    network: Network
    settings: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def log(self, stage: str) -> Path:
        return self.folder / f"{stage}.log"

    def start(self, *stages: str) -> None:
        """Start stages; `is_ready` tells when they serve."""
        self.folder.mkdir(exist_ok=True)
        cache = self.folder / "data" / "cache"
        if "analyze" in stages and not cache.exists():
            put_made(cache)
        config = self.folder / "node.toml"
        config.write_text(self.settings)
        for stage in stages:
            with self.log(stage).open("ab") as log:
                self.processes[stage] = subprocess.Popen(
                    self.network.command(self.name, [sys.executable, "-m", "cxr_node", "--config", str(config), stage]),
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                    env=self.environment,
                )

    def wait_until_ready(self, *stages: str) -> None:
        for stage in stages or tuple(self.processes):
            wait_until(lambda stage=stage: self.is_ready(stage), 300, f"{stage} on {self.name} ready", every_s=0.2)
        cache = self.folder / "data" / "cache"
        keep_made(cache)  # what takes long is made once

    def is_ready(self, stage: str) -> bool:
        process = self.processes[stage]
        text = self.log(stage).read_bytes()
        assert process.poll() is None, f"{stage} on {self.name} ended:\n{text[-3000:].decode(errors='replace')}"
        return f'"{stage}_ready"'.encode() in text

    def signal(self, number: int) -> None:
        """Signal every process of the host: they are its processes' own children, and none of another host."""
        for process in self.processes.values():
            for pid in [*_descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def events(self, stage: str) -> list[dict[str, Any]]:
        """Return the lines of a stage's log."""
        if not self.log(stage).exists():
            return []
        lines = self.log(stage).read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                process.wait()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [*_descendants(int(child)), int(child)]
    return found


@dataclass
class Site:
    """What the hosts share, and the hosts."""

    folder: Path
    network: Network
    database_url: str = ""  # by socket, from outside the network
    hosts: dict[str, Host] = field(default_factory=dict)
    services: list[subprocess.Popen[bytes]] = field(default_factory=list)
    server_folder: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Of every process: the store's address and credentials, which moto takes whatever they are."""
        return {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://{SHARED}:{PORT_STORE}",
            "AWS_ACCESS_KEY_ID": "cxr",
            "AWS_SECRET_ACCESS_KEY": "cxr",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def pacs_folder(self) -> Path:
        return self.folder / "pacs"

    def open(self) -> None:
        """Start what is shared."""
        self.network.add("shared", SHARED)
        self._start_database()
        self._start_store()
        self.pacs_folder.mkdir()
        self.start_pacs()

    def start_pacs(self) -> None:
        """Start the PACS, which keeps each object under its SOP Instance UID and tells of every one that it took."""
        command = ["storescp", "-v", "-od", str(self.pacs_folder), "-aet", "PACS", str(PORT_PACS)]
        self._serve(command, self.folder / "pacs.log")

    def add(self, name: str, *, extra: str = "") -> Host:
        """Make a host; its stages are started one by one."""
        number = 10 + len(self.hosts)
        address = f"10.213.7.{number}"
        self.network.add(name, address)
        settings = (
            f'[node]\ndata_dir = "data"\ndatabase = "postgresql+psycopg://cxr@{SHARED}/node"\n'
            'instances = "s3://cxr/site"\n'
            f'[receive]\nhost = "{address}"\nport = {PORT_RECEIVE}\nmin_free_gb = 0.1\nquiet_period_s = 0.5\n'
            f'[[caller]]\nae_title = "*"\nhosts = ["10.213.7.0/24"]\n'
            '[analyze]\nmodels = ["pneumonia-adult"]\nbatch_size = 4\n'
            f'[worklist]\nhost = "{address}"\nport = {PORT_WEB}\ndicom_port = {PORT_WORKLIST}\n'
            f'dicom_host = "{address}"\n'
            f'[[destination]]\nname = "pacs"\nkind = "c-store"\nae_title = "PACS"\nhost = "{SHARED}"\n'
            f"port = {PORT_PACS}\nsettle_s = 0.2\ncommit = false\ntimeout_s = 10\n{extra}"
        )
        host = Host(name, address, self.folder / f"host-{name}", self.network, settings, self.environment)
        self.hosts[name] = host
        return host

    def run_in(self, host: str, command: Sequence[str], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and return what it printed."""
        return subprocess.run(
            self.network.command(host, command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=self.environment,
            cwd=ROOT,
        )

    def received(self) -> Counter[str]:
        """Return how often the PACS took each object, by the name of its file."""
        log = (self.folder / "pacs.log").read_text(errors="replace")
        return Counter(Path(line.rpartition(" ")[2]).name for line in log.splitlines() if "storing DICOM file" in line)

    def close(self) -> None:
        for host in self.hosts.values():
            host.stop()
        for service in self.services:
            service.kill()  # what they would still write is thrown away below
            service.wait()
        self.network.close()
        if self.server_folder is not None:
            shutil.rmtree(self.server_folder, ignore_errors=True)

    def _serve(self, command: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            process = subprocess.Popen(
                self.network.command("shared", command), stdout=file, stderr=file, env=self.environment, **options
            )
        self.services.append(process)
        return process

    def _start_database(self) -> None:
        # Not pytest's folder: PostgreSQL refuses to run as root, and nobody else may enter that.
        folder = self.server_folder = Path(tempfile.mkdtemp(prefix="cxr-scale-"))
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data = folder / "data"
        make = [find_server_program("initdb"), "-D", str(data), "-U", "cxr", "-A", "trust", "-N", "-E", "UTF8"]
        _run(*as_user, *make, "--locale=C")
        with (data / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.213.7.0/24 trust\n")
        options = {"listen_addresses": SHARED, "port": PORT_DATABASE, "unix_socket_directories": folder, "fsync": "off"}
        server = [find_server_program("postgres"), "-D", str(data)]
        process = self._serve(
            [*as_user, *server, *(f"--{name}={value}" for name, value in options.items())], self.folder / "database.log"
        )
        address = f"host={folder} port={PORT_DATABASE} user=cxr"

        def is_up() -> bool:
            assert process.poll() is None, (self.folder / "database.log").read_text()
            try:
                with psycopg.connect(f"{address} dbname=postgres", autocommit=True) as connection:
                    connection.execute("CREATE DATABASE node")
            except psycopg.OperationalError:
                return False
            return True

        wait_until(is_up, 60, "PostgreSQL ready")
        self.database_url = f"postgresql+psycopg://cxr@/node?host={folder}&port={PORT_DATABASE}"
        opened = Database(self.database_url)
        opened.migrate()
        opened.dispose()

    def _start_store(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", SHARED, "-p", str(PORT_STORE)]
        process = self._serve(command, self.folder / "store.log")
        script = "import boto3; boto3.client('s3').create_bucket(Bucket='cxr')"

        def has_bucket() -> bool:
            assert process.poll() is None, (self.folder / "store.log").read_text()
            return self.run_in("shared", [sys.executable, "-c", script]).returncode == 0

        wait_until(has_bucket, 90, "store ready", every_s=0.5)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A private network with a database, a store and a PACS; hosts are added by the test."""
    with opened_site(tmp_path) as made:
        yield made


@contextlib.contextmanager
def opened_site(folder: Path) -> Iterator[Site]:
    """Open a site in a folder."""
    if os.geteuid() != 0 or find_program("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    made = Site(folder, Network(f"cxr-scale-{os.getpid()}-{next(_NUMBERS)}"))
    try:
        try:
            made.network.open()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode(errors='replace').strip()}")
        made.open()
        yield made
    finally:
        made.close()
