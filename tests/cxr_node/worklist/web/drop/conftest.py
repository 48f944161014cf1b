"""A drop that is open, and what the stage that looks would write about its files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from storage import Database, drops, jobs
from storage.drops import DropFolder

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 50
DICOM = b"\0" * 128 + b"DICM" + b"x" * 50


@dataclass
class Tried:
    """A client's drop."""

    client: TestClient
    database: Database
    clock: Callable[[], Any]
    folder: DropFolder
    key: str

    def add(self, data: bytes = PNG, name: str = "a.png", expect: int = 201) -> list[dict[str, Any]]:
        """Upload one file and return what it became."""
        answer = self.client.post(
            f"/api/drops/{self.key}/files", content=data, headers={"X-File-Name": quote(name, safe="")}
        )
        assert answer.status_code == expect, answer.text
        return answer.json().get("files", [])

    def read(self) -> dict[str, Any]:
        """Return the drop as the API tells it."""
        answer = self.client.get(f"/api/drops/{self.key}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def settle(self, file_id: int, outcome: str = "flagged", **more: Any) -> None:
        """Write what came of a file, as the stage that looks does."""
        exclusion = {"reason": "view", "message": "lateral", "attribute": "(0018,5101) View Position", "value": "LL"}
        finding = {"finding": "pneumonia", "model": "m", "model_version": "1", "flagged": outcome == "flagged"}
        result = {
            "kind": "DICOM",
            "facts": {"modality": "DX", "view": "PA"},
            "outcome": outcome,
            "exclusion": exclusion if outcome == "not_analysed" else None,
            "findings": [] if outcome == "not_analysed" else [finding],
            "notes": [],
            "has_preview": True,
            "study_instance_uid": "1.2.3",
            "sop_instance_uid": "1.2.3.4",
            "trace": None,
            **more,
        }
        with self.database.begin() as connection:
            location = drops.get_file(connection, file_id)[1].location
            drops.settle(connection, file_id, state=drops.DONE, now=self.clock(), result=result)
            for job in jobs.claim(connection, [drops.KIND], owner="t:1:", now=self.clock(), limit=100):
                jobs.complete(connection, job, now=self.clock())
        if location:
            self.folder.preview(location).write_bytes(PNG)

    def bytes_kept(self) -> list[str]:
        """Names of all files that lie in the folder."""
        return sorted(path.name for path in self.folder.root.glob("*"))


@pytest.fixture
def open_drop(database, settings, clock):
    """Return a function that opens a drop for a client."""

    def opened(client: TestClient, **options: str) -> Tried:
        answer = client.post("/api/drops", json=options)
        assert answer.status_code == 201, answer.text
        return Tried(client, database, clock, DropFolder(settings.data_dir / "drops"), answer.json()["key"])

    return opened


@pytest.fixture
def tried(client, sign_in, open_drop) -> Tried:
    """The drop of a reader who signed in."""
    sign_in(client, "reader", "dr.lee")
    return open_drop(client)
