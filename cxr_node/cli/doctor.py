"""`cxr-node doctor`: is this node able to work? One line a check, in words; exit status 1 where one failed."""

import argparse
import shutil
import socket
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.cli import closed
from cxr_node.cli.destination import trouble_with
from cxr_node.cli.phantom import phantom_dataset
from cxr_node.cli.send import Peer, send_files
from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError
from cxr_node.fetch.own import tls_of_listener
from cxr_node.inference import Engine, ModelPackage, find_package, golden_difference, package_folders
from cxr_node.inference.package import GOLDEN_TOLERANCE
from cxr_node.requestor import associate
from cxr_node.settings import Destination, Settings
from cxr_node.upkeep.audit_export import repository
from cxr_node.upkeep.backup import standing
from cxr_node.work.files import instance_files
from storage import Database, commitments, model_changes, studies
from storage.errors import StorageError
from storage.object_store import ObjectStore

ROUND_TRIP_WITHIN_S = 60.0

Check = Callable[[Settings], str]


class Unwell(CxrNodeError):
    """A check found something that keeps the node from working."""


def _disk(settings: Settings) -> str:
    folder = settings.data_dir
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        raise Unwell(f"{folder} cannot be written: {error.strerror}") from error
    if free < settings.receive.min_free_gb:
        raise Unwell(
            f"{free:.1f} GB free in {folder}, below min_free_gb = {settings.receive.min_free_gb:g}: C-STORE is refused"
        )
    return f"{free:.1f} GB free in {folder}"


def _database(settings: Settings) -> str:
    database = Database(settings.database_url)
    try:
        with database.read():
            pass
        if not database.is_current():
            return f"{database.dialect}: reachable, not yet at the newest migration; `serve` migrates it"
        return f"{database.dialect}: reachable, at the newest migration"
    except (SQLAlchemyError, StorageError) as error:
        raise Unwell(f"database {settings.database_url.partition('://')[0]}: {type(error).__name__}") from error
    finally:
        database.dispose()


def _models(settings: Settings) -> str:
    packages = [find_package(name, package_folders(settings.data_dir)) for name in _wanted(settings)]
    return ", ".join(
        f"{package.manifest.name} {package.manifest.version} ({package.digest[:12]})" for package in packages
    )


def _wanted(settings: Settings) -> list[str]:
    """Return the packages that are to run: node.toml's, overruled by what admins decided."""
    analyze = settings.analyze
    database = Database(settings.database_url)
    try:
        if not database.is_current():
            return [*analyze.models, *analyze.shadow]
        with database.read() as connection:
            wanted = model_changes.effective(connection, analyze.models, analyze.shadow)
    except (SQLAlchemyError, StorageError):
        return [*analyze.models, *analyze.shadow]  # the check of the database tells why
    finally:
        database.dispose()
    return [chosen.name for chosen in (*wanted.active, *wanted.shadow)]


def _engine(settings: Settings, package: ModelPackage) -> Engine:
    return Engine(package, cache_dir=settings.data_dir / "cache", choice=settings.analyze.engine)


def _golden(settings: Settings) -> str:
    worst = 0.0
    for name in _wanted(settings):
        package = find_package(name, package_folders(settings.data_dir))
        difference = golden_difference(package, _engine(settings, package))
        if difference > GOLDEN_TOLERANCE:
            raise Unwell(f"{name}: golden scores differ by {difference:.2g}, more than {GOLDEN_TOLERANCE:g}")
        worst = max(worst, difference)
    return f"scores agree within {worst:.1g}"


def _echo(ae_title: str, host: str, port: int, context: ssl.SSLContext | None = None) -> str:
    ae = AE(ae_title="CXR_DOCTOR")
    ae.add_requested_context(Verification)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    ae.connection_timeout = 5
    try:
        tls_args = None if context is None else (context, host)
        association = associate(ae, host, port, ae_title=ae_title, tls_args=tls_args)
    except OSError as error:
        raise Unwell(f"C-ECHO {ae_title} at {host}:{port}: {error.strerror or type(error).__name__}") from error
    if not association.is_established:
        why = "it refused the association" if association.is_rejected else "no answer"
        if context is not None and not association.is_rejected:
            why = "no answer; its own certificate must also be one that receive.tls.ca signed, for clients"
        raise Unwell(f"C-ECHO {ae_title} at {host}:{port}: {why}")
    status = association.send_c_echo()
    association.release()
    if "Status" not in status or status.Status != 0:
        raise Unwell(f"C-ECHO {ae_title} at {host}:{port}: no success status")
    return f"C-ECHO {ae_title} at {host}:{port} answered"


def _listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((_local(host), port)) == 0


def _local(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def _receiver(settings: Settings) -> str:
    receive = settings.receive
    if not _listening(receive.host, receive.port):
        raise Unwell(f"nothing listens on {receive.host}:{receive.port}: is the node running?")
    return _echo(receive.ae_title, _local(receive.host), receive.port, tls_of_listener(settings))


def _web(settings: Settings) -> str:
    url = f"{closed.web_url(settings, _local(settings.worklist.host))}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=5, context=closed.web_context(settings)) as answer:
            return f"{url} answered {answer.status}"
    except urllib.error.HTTPError as error:
        raise Unwell(f"{url} answered {error.code}: {error.read(500).decode(errors='replace')}") from error
    except OSError as error:
        raise Unwell(f"{url}: no answer: is the node running?") from error


def _destinations(settings: Settings) -> Iterator[tuple[str, Check]]:
    for destination in settings.destination:
        yield f"destination {destination.name}", partial(_destination, destination=destination)


def _destination(settings: Settings, destination: Destination) -> str:
    found = trouble_with(settings, destination)
    if found:
        raise Unwell(found)
    return f"{destination.kind}, takes {', '.join(destination.sends)}"


def _commitment(settings: Settings) -> str:
    known = {peer.ae_title.strip() for peer in settings.peer}
    database = Database(settings.database_url)
    try:
        if not database.is_current():
            return "nobody has asked yet"
        with database.read() as connection:
            waiting = set(commitments.unreported_callers(connection))
    finally:
        database.dispose()
    if waiting - known:
        raise Unwell(
            f"{', '.join(sorted(waiting - known))} asked for storage commitment and cannot be reported to: "
            "add a [[peer]] section with its host and port for each"
        )
    return "everybody who asked can be reported to"


def _bytes(settings: Settings) -> str:
    files = instance_files(settings)
    sealed = "not encrypted" if files.keys is None else f"sealed with {files.keys.current()[0]}"
    if isinstance(files.store, ObjectStore):
        files.store.check()
        return f"{files.store.address} takes and gives back, {sealed}"
    return f"{settings.instances_dir}, {sealed}"


def _backup(settings: Settings) -> str:
    if not settings.upkeep.backup_dir:
        return "not set up here (upkeep.backup_dir is empty): save database and images by the means of the site"
    database = Database(settings.database_url)
    try:
        if not database.is_current():
            return "none yet"
        found = standing(database)
    finally:
        database.dispose()
    last = "none yet" if found.made_at is None else f"last {found.made_at.isoformat(timespec='minutes')}"
    if found.is_failing:
        raise Unwell(f"the last try failed, {last}: {found.reason}")
    if found.made_at is not None and utc_now() - found.made_at > 2 * timedelta(hours=settings.upkeep.backup_every_h):
        raise Unwell(f"{last}: no backup was made when it was due")
    return last


def _audit_repository(settings: Settings) -> str:
    target = repository(settings)
    if target is None:
        return "none is set (audit.syslog_host is empty): entries stay in the database"
    target.deliver([])  # as far as the first message; nothing is sent
    if target.transport == "udp":
        return f"{target}: the name resolves; by UDP nobody can know more"
    return f"{target} {'accepts' if target.transport == 'tcp' else 'shows a certificate that is trusted, and accepts'}"


def _round_trip(settings: Settings) -> str:
    dataset = phantom_dataset(utc_now(), np.random.default_rng(), opacity=1.0, accession_number="DOCTOR")
    uid = str(dataset.StudyInstanceUID)
    receive = settings.receive
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.dcm"
        dataset.save_as(path, enforce_file_format=True)
        peer, context = Peer(receive.ae_title, _local(receive.host), receive.port), tls_of_listener(settings)
        for sent in send_files([path], peer, "CXR_DOCTOR", context):
            if sent.status != 0:
                raise Unwell(f"C-STORE of a drawn study was answered {sent.status}: {sent.reason}")
    database = Database(settings.database_url)
    try:
        while time.monotonic() - started < ROUND_TRIP_WITHIN_S:
            with database.read() as connection:
                study = studies.get(connection, uid)
            if study is not None and study.status != "pending":
                return f"a drawn study was {study.status.replace('_', ' ')} in {time.monotonic() - started:.2f} s"
            time.sleep(0.05)
    finally:
        database.dispose()
    raise Unwell(f"a drawn study was received but had no result after {ROUND_TRIP_WITHIN_S:g} s")


def doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the checks and print them."""
    checks: list[tuple[str, Check]] = [
        ("disk", _disk),
        ("modes", closed.modes),
        ("TLS", closed.tls),
        ("database", _database),
        ("models", _models),
        ("golden inputs", _golden),
        ("receiver", _receiver),
        ("worklist", _web),
        ("storage commitment", _commitment),
        ("bytes", _bytes),
        ("backup", _backup),
        ("audit repository", _audit_repository),
        *_destinations(settings),
    ]
    if arguments.round_trip:
        checks.append(("round trip", _round_trip))
    failed = 0
    for name, check in checks:
        try:
            print(f"ok      {name}: {check(settings)}", flush=True)
        except (CxrNodeError, StorageError) as error:
            failed += 1
            print(f"FAILED  {name}: {error}", flush=True)
    return 1 if failed else 0
