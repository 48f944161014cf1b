"""Studies on a worklist: a database in a file, studies in every state, a fixed clock, and the servers on loopback."""

import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cxr_node.findings import OrderedPriority, effective_priority
from cxr_node.findings.priority import parse_ordered, rank
from cxr_node.settings import Settings
from cxr_node.worklist.services import Services, make_services
from cxr_node.worklist.web.access import COOKIE, CSRF_HEADER
from cxr_node.worklist.web.app import create_app
from storage import Database, deliveries, instances, jobs, results, sessions, studies, users
from storage.studies import PatientContext
from tests.databases import migrated

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


def make_score(flagged: bool, probability: float, finding: str = "pneumonia") -> dict[str, Any]:
    """Return a score as analyze writes it."""
    return {
        "finding": finding,
        "model": "pneumonia-adult",
        "model_version": "1.0.0",
        "model_digest": "d" * 64,
        "probability": probability,
        "threshold": 0.5,
        "operating_point": "sensitive",
        "flagged": flagged,
    }


def make_exclusion(uid: str, **more: str) -> dict[str, str]:
    """Return an exclusion as analyze writes it."""
    return {
        "sop_instance_uid": f"{uid}.1",
        "reason": "body-part",
        "message": "the body part is not the chest",
        "attribute": "(0018,0015) Body Part Examined",
        "value": "HAND",
    } | more


@dataclass
class Ward:
    """Puts studies on the list as receive and analyze would."""

    database: Database
    clock: Clock
    count: int = field(default=0)

    def add(
        self,
        uid: str,
        *,
        waited_min: float = 10.0,
        status: str = "analysed",
        flagged: bool = False,
        ordered: str = "ROUTINE",
        exclusion: dict[str, str] | None = None,
        findings: list[dict[str, Any]] | None = None,
        destination: str = "pacs",
        **context: str,
    ) -> str:
        """Add one study; `status` pending leaves it without a result."""
        self.count += 1
        at = self.clock.now - timedelta(minutes=waited_min)
        known = {
            "patient_name": f"Doe^Jane{self.count}",
            "patient_id": f"P{self.count}",
            "accession_number": f"A{self.count}",
            "birth_date": "19760102",
            "age": "050Y",
            "sex": "F",
            "modality": "DX",
            "view": "PA",
            "body_part": "CHEST",
            "ordered_priority": ordered,
        }
        known.update(context)
        with self.database.begin() as connection:
            instances.add(
                connection,
                sop_instance_uid=f"{uid}.1",
                series_instance_uid=f"{uid}.0",
                study_instance_uid=uid,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                variant=0,
                size=1,
                location=f"{self.count}.dcm",
                calling_ae_title="CR_ROOM_1",
                called_ae_title="CXR_NODE",
                peer_address="127.0.0.1",
                association_id="1",
                received_at=at,
            )
            studies.touch(
                connection,
                uid,
                PatientContext(**known),
                ordered_rank=rank(parse_ordered(ordered)),
                calling_ae_title="CR_ROOM_1",
                now=at,
            )
            if status == "failed":
                jobs.schedule(connection, "analyze", uid, run_at=at, now=at)
                claimed = jobs.claim(connection, ["analyze"], owner="test", now=self.clock.now)
                assert jobs.fail(connection, claimed[0], reason="the model did not answer", now=self.clock.now)
            if status == "pending":
                return uid
            ai = OrderedPriority.HIGH if flagged else None
            effective = effective_priority(parse_ordered(ordered), ai)
            revision = 0
            if status != "failed":
                if findings is None:
                    findings = [make_score(flagged, 0.9123 if flagged else 0.1877)] if status == "analysed" else []
                excluded = [exclusion or make_exclusion(uid)] if status == "not_analysed" else []
                result = results.add(
                    connection,
                    uid,
                    status=status,
                    flagged=flagged,
                    ai_priority=str(ai or ""),
                    outcome={"images": [], "findings": findings, "exclusions": excluded, "shadow": [], "notes": []},
                    now=at + timedelta(seconds=1),
                )
                revision = result.revision
                delivery = deliveries.add(connection, result.id, kind="sr", destination=destination, now=at)
                deliveries.set_state(connection, delivery.id, "DELIVERED", now=at)
            studies.set_outcome(
                connection,
                uid,
                status=status,
                flagged=flagged,
                ai_priority=str(ai or ""),
                effective_priority=str(effective),
                priority_rank=rank(effective),
                notified_at=at + timedelta(seconds=1),
                revision=revision,
            )
        return uid


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a database file of the newest revision, to be copied."""
    path = tmp_path_factory.mktemp("worklist") / "node.db"
    database = migrated(f"sqlite:///{path}")
    database.dispose()
    return path


@pytest.fixture
def clock() -> Clock:
    """Noon."""
    return Clock()


@pytest.fixture
def settings(tmp_path: Path, migrated_database: Path) -> Settings:
    """The defaults on free ports, with a migrated database; nobody has to sign in to read."""
    (tmp_path / "var").mkdir()
    shutil.copy(migrated_database, tmp_path / "var" / "cxr-node.db")
    worklist = {"port": 0, "dicom_port": 0, "require_token": "never"}
    return Settings.model_validate({"base_dir": str(tmp_path), "worklist": worklist})


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The database of `settings`."""
    opened = Database(settings.database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def ward(database: Database, clock: Clock) -> Ward:
    """An empty worklist."""
    return Ward(database, clock)


@pytest.fixture(autouse=True)
def quiet_pydicom() -> Iterator[None]:
    """Hostile values are the point of some tests here; the stage itself turns these warnings off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.fixture
def services(settings: Settings, database: Database, clock: Clock) -> Services:
    """What the routes share, over the database of `settings`."""
    return make_services(settings, database, clock)


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    """A client of the application on loopback."""
    with TestClient(create_app(services), base_url="http://127.0.0.1:8042", follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def make_client(database: Database, clock: Clock) -> Iterator[Callable[..., TestClient]]:
    """Make clients of applications with other settings."""
    opened: list[TestClient] = []

    def make(settings: Settings, base_url: str = "http://127.0.0.1:8042") -> TestClient:
        app = create_app(make_services(settings, database, clock))
        opened.append(TestClient(app, base_url=base_url, follow_redirects=False))
        opened[-1].__enter__()
        return opened[-1]

    yield make
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture
def sign_in(database: Database, clock: Clock) -> Callable[..., str]:
    """Return a function that gives a client the session of a new user; what it returns is the CSRF token."""

    def sign(client: TestClient, role: str = "admin", login: str = "") -> str:
        secret, csrf_token, now = secrets.token_urlsafe(32), secrets.token_urlsafe(32), clock.now
        with database.begin() as connection:
            user = users.add(connection, login or f"{role}.person", role, now=now)
            sessions.open_session(
                connection,
                user.id,
                secret=secret,
                csrf_token=csrf_token,
                address="127.0.0.1",
                now=now,
                ends=now + timedelta(hours=12),
            )
        client.cookies.set(COOKIE, secret)
        client.headers[CSRF_HEADER] = csrf_token
        return csrf_token

    return sign


def with_worklist(settings: Settings, profile: str = "triage", **changes: Any) -> Settings:
    """Return the settings with other values in [worklist], and another profile."""
    return settings.model_copy(
        update={
            "worklist": settings.worklist.model_copy(update=changes),
            "node": settings.node.model_copy(update={"profile": profile}),
        }
    )
