"""`cxr-node demo`: the whole line on drawn studies, with a small PACS beside it, and then the node as it is.

The demonstration PACS is a Storage SCP on loopback in this process; it keeps what it gets in ``data_dir/demo-pacs``.
"""

import argparse
import json
import queue
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage
from pynetdicom import AE, evt

from cxr_node.cli.closed import web_url
from cxr_node.cli.phantom import phantom_dataset
from cxr_node.cli.send import Peer, send_files
from cxr_node.cli.serve import Supervisor
from cxr_node.cli.user import open_database
from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError, Unreachable
from cxr_node.fetch.own import tls_of_listener
from cxr_node.log import configure_logging
from cxr_node.reporting import render_text
from cxr_node.settings import Settings
from cxr_node.signals import stop_on_signals
from cxr_node.worklist.web.accounts import people
from storage import Database, studies
from storage.studies import Study

START_WITHIN_S = 600.0  # the first start converts the models
ANSWER_WITHIN_S = 120.0
PACS_AE_TITLE = "DEMO_PACS"


class DemoPacs:
    """Takes reports, keeps them, hands them on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.received: queue.Queue[Dataset] = queue.Queue()
        ae = AE(ae_title=PACS_AE_TITLE)
        for sop_class in (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage):
            ae.add_supported_context(sop_class)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        assert server is not None  # only block=True returns nothing
        self._server = server
        self.port: int = server.server_address[1]

    def _store(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        dataset.save_as(self._folder / f"{dataset.SOPInstanceUID}.dcm", enforce_file_format=True)
        self.received.put(dataset)
        return 0x0000

    def close(self) -> None:
        self._server.shutdown()


def demo(settings: Settings, arguments: argparse.Namespace) -> int:
    """Start the node, send two drawn studies, print what came back, stay up until interrupted."""
    configure_logging("error")
    stop = threading.Event()
    stop_on_signals(stop)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    pacs = DemoPacs(settings.data_dir / "demo-pacs")
    destination = {
        "name": "demo-pacs",
        "kind": "c-store",
        "ae_title": PACS_AE_TITLE,
        "host": "127.0.0.1",
        "port": pacs.port,
        "settle_s": 0.5,
        "commit": False,  # it keeps what it gets and answers no questions about it
    }
    _tell_first_admin(settings)
    others = [item.model_dump() for item in settings.destination if item.name != "demo-pacs"]
    environment = {"CXR_NODE__DESTINATION": json.dumps([*others, destination])}
    log_path = settings.data_dir / "node.log"
    with log_path.open("ab") as log_file:
        supervisor = Supervisor(settings, arguments.config, environment, log_file)
        failures: queue.Queue[BaseException] = queue.Queue()
        thread = threading.Thread(target=_supervise, args=(supervisor, stop, failures), name="supervisor")
        thread.start()
        try:
            status = _show(settings, pacs, stop, failures, log_path)
            if not arguments.exit and status == 0 and not stop.is_set():
                _say("The node stays up for your own PACS. Ctrl-C stops it.")
                stop.wait()
        finally:
            stop.set()
            thread.join()
            pacs.close()
    return status


def _tell_first_admin(settings: Settings) -> None:
    """Print how to sign in on a first start; here and not in the stage, whose words come between others."""
    worklist = settings.worklist
    with open_database(settings) as database:
        password = people.first_admin(database, now=utc_now())
    if password:
        _say(people.first_admin_told(password, worklist.public_url or f"{web_url(settings, worklist.host)}/"))


def _supervise(supervisor: Supervisor, stop: threading.Event, failures: "queue.Queue[BaseException]") -> None:
    try:
        supervisor.run(stop)
    except (CxrNodeError, OSError) as error:
        failures.put(error)
        stop.set()


def _say(text: str = "") -> None:
    print(text, flush=True)


def _show(
    settings: Settings, pacs: DemoPacs, stop: threading.Event, failures: "queue.Queue[BaseException]", log_path: Path
) -> int:
    receive, worklist = settings.receive, settings.worklist
    _say("cxr-node: research prototype, not cleared for clinical use. Not for diagnosis.")
    _say(f"starting (log: {log_path})")
    rng = np.random.default_rng(int(time.time()))
    now = utc_now()
    tag = now.strftime("%m%d%H%M%S")
    datasets = [
        phantom_dataset(now - timedelta(minutes=20), rng, opacity=0.0, accession_number=f"A{tag}"),
        phantom_dataset(now - timedelta(minutes=5), rng, opacity=1.0, accession_number=f"B{tag}"),
    ]
    folder = settings.data_dir / "demo-studies"
    folder.mkdir(exist_ok=True)
    paths = []
    for dataset in datasets:
        paths.append(folder / f"{dataset.AccessionNumber}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    peer = Peer(receive.ae_title, "127.0.0.1" if receive.host == "0.0.0.0" else receive.host, receive.port)
    if not _send(paths, peer, tls_of_listener(settings), stop):
        _say(f"the node did not start: {failures.get() if not failures.empty() else f'see {log_path}'}")
        return 1
    _say(f"sent two drawn chest studies by C-STORE to {peer.ae_title} at {peer.host}:{peer.port}")
    reports = _wait_for_reports(pacs, {str(dataset.StudyInstanceUID) for dataset in datasets}, stop)
    if len(reports) < len(datasets):
        _say(f"{len(reports)} of {len(datasets)} reports came back within {ANSWER_WITHIN_S:g} s: see {log_path}")
        return 1
    found = _studies(settings, [str(dataset.StudyInstanceUID) for dataset in datasets])
    first = max(found, key=lambda study: (study.priority_rank, study.context.accession_number))
    _say()
    _say(f"Structured Report received by {PACS_AE_TITLE} (one of {len(reports)} in {settings.data_dir / 'demo-pacs'}):")
    _say()
    _say(render_text(reports[first.study_instance_uid]))
    _say()
    _say("accession      state        flagged  ordered   effective  last image to worklist")
    for study in sorted(found, key=lambda item: -item.priority_rank):
        seconds = (study.notified_at - study.last_received_at).total_seconds() if study.notified_at else float("nan")
        _say(
            f"{study.context.accession_number:14} {study.status:12} {'yes' if study.flagged else 'no':8} "
            f"{study.ordered_priority:9} {study.effective_priority:10} {seconds:.2f} s"
        )
    _say()
    _say("The studies are drawings: what a model says of them means nothing.")
    signs_in = "" if worklist.require_token == "never" else "   sign in as admin, or with another login of yours"
    _say(f"worklist   {web_url(settings, worklist.host)}/{signs_in}")
    _say(f"DICOM in   {receive.ae_title}@{receive.host}:{receive.port}")
    _say(f"worklists  {worklist.dicom_ae_title}@{worklist.dicom_host}:{worklist.dicom_port} (UPS, Modality Worklist)")
    return 0


def _send(paths: Sequence[Path], peer: Peer, context: ssl.SSLContext | None, stop: threading.Event) -> bool:
    deadline = time.monotonic() + START_WITHIN_S
    while not stop.is_set() and time.monotonic() < deadline:
        try:
            answers = list(send_files(paths, peer, "DEMO_PACS", context))
        except Unreachable:
            stop.wait(0.25)
            continue
        for answer in answers:
            if answer.status != 0:
                _say(f"{answer.path.name}: status {answer.status} {answer.reason}")
        return all(answer.status == 0 for answer in answers)
    return False


def _wait_for_reports(pacs: DemoPacs, wanted: set[str], stop: threading.Event) -> dict[str, Dataset]:
    reports: dict[str, Dataset] = {}
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while wanted - set(reports) and not stop.is_set() and time.monotonic() < deadline:
        try:
            report = pacs.received.get(timeout=0.25)
        except queue.Empty:
            continue
        reports[str(report.StudyInstanceUID)] = report
    return reports


def _studies(settings: Settings, uids: Sequence[str]) -> list[Study]:
    database = Database(settings.database_url)
    try:
        with database.read() as connection:
            return [study for uid in uids if (study := studies.get(connection, uid)) is not None]
    finally:
        database.dispose()
        sys.stdout.flush()
