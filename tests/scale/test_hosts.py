"""Several hosts, one database, one store: a host is added under load, one is cut off, one dies, and nothing shows."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid
from sqlalchemy import func, select

from cxr_node.cli.phantom import phantom_dataset
from cxr_node.clock import utc_now
from storage import Database, heartbeats, tables
from tests.scale.conftest import PORT_RECEIVE, Host, Site
from tests.system.conftest import wait_until

pytestmark = pytest.mark.peer("ip", "initdb", "storescp", "storescu", "setpriv")

BATCH = 3  # studies of one association
MOST_WAITING = 9  # enough that everybody has work, and little enough that it is done soon


class Flow:
    """Studies that come one association after the other, until told to end; `acknowledged` of them were taken."""

    def __init__(self, site: Site, database: Database, receiver: Host, folder: Path) -> None:
        self._site, self._database, self._receiver, self._folder = site, database, receiver, folder
        folder.mkdir()
        self._template = phantom_dataset(utc_now(), np.random.default_rng(1), opacity=1.0, accession_number="S")
        self.acknowledged: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def send(self) -> None:
        """Send one batch and wait for its end."""
        uids, paths = [], []
        for number in range(BATCH):
            made = self._template
            made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
            made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            made.PatientID = f"FLOW-{len(self.acknowledged) + number}"
            path = self._folder / f"{number}.dcm"
            made.save_as(path)
            uids.append(str(made.StudyInstanceUID))
            paths.append(str(path))
        command = ["storescu", "-aet", "CR", "-aec", "CXR_NODE", self._receiver.address, str(PORT_RECEIVE), *paths]
        done = self._site.run_in("shared", command)
        assert done.returncode == 0, done.stderr
        self.acknowledged += uids

    def __enter__(self) -> "Flow":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._waiting() < MOST_WAITING:
                self.send()
            else:
                self._stop.wait(0.1)

    def _waiting(self) -> int:
        waiting = select(func.count()).where(tables.jobs.c.state.in_(["SCHEDULED", "IN_PROGRESS"]))
        with self._database.read() as connection:
            return connection.execute(waiting.where(tables.jobs.c.kind == "analyze")).scalar_one()


@pytest.fixture
def database(site: Site) -> Iterator[Database]:
    opened = Database(site.database_url)
    yield opened
    opened.dispose()


def leases(database: Database, host: Host, kind: str) -> list[int]:
    """Return the jobs of a kind that the host has a lease on."""
    held = select(tables.jobs.c.id).where(
        tables.jobs.c.state == "IN_PROGRESS",
        tables.jobs.c.kind == kind,
        tables.jobs.c.lease_owner.contains(f":host-{host.name}."),
    )
    with database.read() as connection:
        return list(connection.execute(held).scalars())


def freeze_at_work(database: Database, host: Host, kind: str) -> list[int]:
    """Stop the host's processes while it holds leases, and return the jobs that it then holds."""

    def caught() -> list[int]:
        if not leases(database, host, kind):
            return []
        host.signal(signal.SIGSTOP)
        held = leases(database, host, kind)
        if not held:  # it was faster
            host.signal(signal.SIGCONT)
        return held

    return wait_until(caught, 120, f"{host.name} caught with a lease on {kind}", every_s=0.002)


def of_study(database: Database, uid: str) -> tuple[int, int, list[str]]:
    """Return how many results the study has, how many of them are current, and the states of its deliveries."""
    results, deliveries = tables.results, tables.deliveries
    with database.read() as connection:
        made = select(func.count(), func.count().filter(results.c.superseded_at.is_(None)))
        number, current = connection.execute(made.where(results.c.study_instance_uid == uid)).one()
        states = select(deliveries.c.state).where(deliveries.c.study_instance_uid == uid)
        return number, current, list(connection.execute(states).scalars())


def settled(database: Database, kind: str, jobs: list[int]) -> bool:
    done = select(func.count()).where(tables.jobs.c.id.in_(jobs), tables.jobs.c.state == "COMPLETED")
    with database.read() as connection:
        return connection.execute(done).scalar_one() == len(jobs)


def analysed(host: Host) -> int:
    return sum(line.get("event") == "job_settled" and line["kind"] == "analyze" for line in host.events("analyze"))


@pytest.mark.requirement("SRS-SCL-010", "SRS-SCL-011", "SRS-SCL-012", "SRS-SCL-013", "SRS-SCL-014")
@pytest.mark.timeout(900)
def test_hosts_come_are_cut_off_and_die_under_load_and_nothing_is_lost_or_done_twice(site, database, tmp_path):
    """Ten hospitals' studies must not hang on one machine, one cable or one process."""
    a, b, c, d, e = (site.add(name) for name in "abcde")
    a.start("receive", "worklist")
    b.start("analyze")
    d.start("deliver")
    for host in (a, b, d):
        host.wait_until_ready()
    with Flow(site, database, a, tmp_path / "flow") as flow:
        wait_until(lambda: analysed(b), 120, "b at work")
        # One more is added under load, and takes its share.
        c.start("analyze")
        c.wait_until_ready()
        wait_until(lambda: analysed(c), 120, "c at work")
        # Host b is cut off with studies in its hands: it goes on, and cannot tell anybody.
        of_b = freeze_at_work(database, b, "analyze")
        site.network.cut("b")
        b.signal(signal.SIGCONT)
        # Host d dies while it sends, host c while it analyses. Their leases are all that is left of them.
        e.start("analyze", "deliver")
        e.wait_until_ready()
        of_d = freeze_at_work(database, d, "deliver:pacs")
        d.signal(signal.SIGKILL)
        of_c = freeze_at_work(database, c, "analyze")
        c.signal(signal.SIGKILL)
        # The others take over once the leases end.
        wait_until(lambda: settled(database, "analyze", of_b + of_c), 180, "taken over: what b and c had in hand")
        wait_until(lambda: settled(database, "deliver:pacs", of_d), 180, "taken over: what d had in hand")
        # Back on the network, b finds its leases gone, and is of use again.
        before = analysed(b)
        site.network.mend("b")
        wait_until(
            lambda: any(
                line.get("result") == "completed" and line["kind"] == "analyze"
                for line in b.events("analyze")[before:]
                if line.get("event") == "job_settled"
            ),
            180,
            "b at work again",
        )
    uids = flow.acknowledged
    assert len(uids) >= 4 * BATCH

    def is_done(uid: str) -> bool:
        return of_study(database, uid)[2] == ["DELIVERED"]

    wait_until(lambda: all(map(is_done, uids)), 240, "every report delivered", every_s=0.5)
    assert {uid: of_study(database, uid)[:2] for uid in uids} == dict.fromkeys(uids, (1, 1))
    with database.read() as connection:
        left = select(func.count()).where(tables.jobs.c.state != "COMPLETED", tables.jobs.c.kind != "upkeep")
        assert connection.execute(left).scalar_one() == 0, "the queue is empty"
        reports = set(connection.execute(select(tables.deliveries.c.sop_instance_uid)).scalars())
        hosts = {beat.process.partition(":")[0] for beat in heartbeats.listed(connection)}
    assert {"host-a", "host-b", "host-e"} <= hosts, "the page of processes shows them all"
    held = list(site.pacs_folder.iterdir())
    assert len(held) == len(reports) == len(uids), "each report is in the PACS once"
    # What d had sent when it was killed was sent once more, under the same UID, and nothing else was.
    assert sum(site.received().values()) <= len(uids) + len(of_d)
