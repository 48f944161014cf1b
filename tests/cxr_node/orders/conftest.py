"""A database of its own, and studies in it."""

from collections.abc import Callable

import pytest

from cxr_node.findings.priority import rank_of
from storage import Doorbell, jobs, studies
from storage.studies import PatientContext
from tests.cxr_node.orders.messages import NOON
from tests.databases import migrated


@pytest.fixture
def database(tmp_path):
    opened = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield opened
    opened.dispose()


@pytest.fixture
def doorbell(tmp_path) -> Doorbell:
    return Doorbell(tmp_path / "run")


@pytest.fixture
def add_study(database) -> Callable[..., None]:
    """Have a study arrive, with its jobs."""

    def add(uid: str = "1.2.3", **context: str) -> None:
        known = {"accession_number": "A1", "patient_id": "P1", "modality": "DX", "study_date": "20260301", **context}
        ordered = known.setdefault("ordered_priority", "ROUTINE")
        with database.begin() as connection:
            studies.touch(
                connection,
                uid,
                PatientContext(**known),
                ordered_rank=rank_of(ordered),
                calling_ae_title="CR",
                now=NOON,
            )
            jobs.schedule(connection, "order", uid, run_at=NOON, now=NOON)

    return add


@pytest.fixture
def priority(database) -> Callable[..., tuple[str, str]]:
    """Return a study's effective priority and the reason of the ordered one."""

    def look(uid: str = "1.2.3") -> tuple[str, str]:
        with database.read() as connection:
            study = studies.get(connection, uid)
        assert study is not None
        return study.effective_priority, study.ordered_reason

    return look
