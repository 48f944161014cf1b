"""How much a request may bring."""

import asyncio

import pytest

from cxr_node.worklist.web import body_limit
from cxr_node.worklist.web.body_limit import MOST_BYTES, BodyLimit

pytestmark = pytest.mark.requirement("SRS-ACC-012")

LARGE = MOST_BYTES + 1


@pytest.mark.parametrize("path", ["/login", "/api/studies/1.2.3/feedback", "/dicom-web/workitems", "/nowhere", "/"])
def test_a_body_that_announces_too_much_is_refused_before_it_comes(client, path):
    """FastAPI reads a form before it asks who sends it."""
    answer = client.post(path, headers={"Content-Length": str(10**12)}, content=b"x")
    assert answer.status_code == 413
    assert "content-security-policy" in answer.headers


def test_a_body_that_announces_nothing_is_cut_off(client):
    """Chunked, a form of gigabytes would be read into memory."""

    def parts():
        for _ in range(64):
            yield b"login=" + b"x" * 65536 + b"&"

    answer = client.post("/login", content=parts(), headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/api/drops/1/files", "/drop", "/admin/rules"])
def test_uploads_have_the_limit_of_the_drop_page(client, path):
    """They count for themselves, file by file."""
    assert client.post(path, content=b"x" * LARGE).status_code != 413
    assert client.post(path, headers={"Content-Length": str(2**40)}, content=b"x").status_code == 413


def test_a_body_that_stalls_ends(monkeypatch):
    """A thousand senders of one byte a minute hold no connection each."""
    monkeypatch.setattr(body_limit, "NEXT_PART_WITHIN_S", 0.01)
    sent = []

    async def app(scope, receive, send):
        from starlette.exceptions import HTTPException

        try:
            await receive()
        except HTTPException as error:
            sent.append(error.status_code)

    async def never():
        await asyncio.sleep(5)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/login", "headers": []}
    asyncio.run(BodyLimit(app, 1)(scope, never, send))
    assert sent == [408]
