"""Two worklist hosts over one database: a subscriber hears of each change once, whichever of them tells it."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from cxr_node.settings import Peer
from cxr_node.worklist.dicom_scp import WorklistScp
from cxr_node.worklist.services import make_services
from cxr_node.worklist.ups_sender import make_workers
from storage import Database, Doorbell, subscriptions
from tests.cxr_node.worklist.ups_peer import GLOBAL, Client, Receiver
from tests.storage.conftest import (  # noqa: F401  # fixtures
    postgresql_database,
    postgresql_server,
    postgresql_template,
)
from tests.system.conftest import wait_until

pytestmark = [pytest.mark.peer("initdb"), pytest.mark.requirement("SRS-SCL-015")]

STUDIES = 12
LONG_S = 120.0


@pytest.fixture
def database(postgresql_database: Database) -> Database:  # noqa: F811
    return postgresql_database


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver("RIS").start()
    yield one
    one.stop()


@pytest.mark.timeout(300)
def test_two_worklist_hosts_tell_a_subscriber_of_each_change_once(settings, database, ward, clock, receiver, tmp_path):
    """A RIS that hears twice of one flag raises two alarms; one that hears of it from neither raises none."""
    stop, threads, opened = threading.Event(), [], []
    hosts = []
    for name in ("one", "two"):
        peer = Peer(ae_title="RIS", host="127.0.0.1", port=receiver.port)
        node = settings.node.model_copy(update={"data_dir": str(tmp_path / name)})
        own = settings.model_copy(update={"peer": (peer,), "node": node})
        mine = Database(database.url)
        opened.append(mine)
        services = make_services(own, mine, clock)
        hosts.append((own, services))
        doorbell = Doorbell(own.data_dir / "run", mine)
        workers = make_workers(own, mine, doorbell, f"worklist:{name}:1", clock)
        threads += [threading.Thread(target=run, args=(stop,)) for run in (services.pump.run, workers[0].run)]
    scp = WorklistScp(*hosts[0])
    scp.start()
    try:
        client = Client(scp.port)
        assert client.subscribe(GLOBAL, "RIS") == 0x0000
        for thread in threads:
            thread.start()
        for number in range(STUDIES):
            ward.add(f"1.2.3.{number}", flagged=number % 2 == 0)
            Doorbell(tmp_path / "intake" / "run", database).ring("worklist")

        def told() -> Counter[tuple[int, str, str]]:
            return Counter(
                (kind, about, str(information.get("ProcedureStepState", "")))
                for kind, about, information in list(receiver.events)
            )

        # Of each study: reading SCHEDULED, and the analysis SCHEDULED, IN PROGRESS, COMPLETED.
        wait_until(lambda: len([key for key in told() if key[0] == 1]) >= 4 * STUDIES, LONG_S, "all told")

        def has_nothing_left() -> bool:
            with database.read() as connection:
                return subscriptions.count_pending(connection, "RIS") == 0

        wait_until(has_nothing_left, LONG_S, "nothing left to tell")
    finally:
        stop.set()
        for thread in threads:
            thread.join(LONG_S)
        scp.stop()
        for one in opened:
            one.dispose()
    found = told()
    assert len([key for key in found if key[0] == 1]) == 4 * STUDIES
    assert set(found.values()) == {1}
