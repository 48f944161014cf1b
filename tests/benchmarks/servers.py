"""A PostgreSQL server of a benchmark's own, with its commits on disk as in service."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from storage import Database
from tests.storage.conftest import find_server_program, free_port, wait_for


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Start a server on loopback; yield the address of an empty database with the node's tables."""
    folder = Path(tempfile.mkdtemp(prefix="cxr-bench-"))
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)  # it refuses to run as root
    as_user = {"user": "postgres", "group": "postgres", "extra_groups": []} if user is not None else {}
    server = None
    with (folder / "log").open("wb") as log:
        try:
            make = [find_server_program("initdb"), "-D", folder / "data", "-U", "cxr", "-A", "trust", "-E", "UTF8"]
            subprocess.run([*make, "--locale=C"], check=True, stdout=log, stderr=log, cwd=folder, **as_user)
            port = free_port()
            options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder}
            server = subprocess.Popen(
                [
                    find_server_program("postgres"),
                    *("-D", folder / "data"),
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                **as_user,
            )
            address = f"postgresql://cxr@127.0.0.1:{port}"
            wait_for(f"{address}/postgres", server, folder / "log")
            with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
                connection.execute("CREATE DATABASE node")
            url = f"{address}/node"
            database = Database(url)
            database.migrate()
            database.dispose()
            yield url.replace("postgresql://", "postgresql+psycopg://")
        finally:
            if server is not None:
                server.send_signal(signal.SIGQUIT)
                server.wait(20)
            shutil.rmtree(folder, ignore_errors=True)
