"""QIDO-RS and WADO-RS against a service that does as told."""

import json
from datetime import date

import httpx
import pytest

from cxr_node.errors import SourceRefused, SourceUnavailable
from cxr_node.fetch.dicomweb import PAGE, WebSource
from cxr_node.fetch.own import Passed
from cxr_node.fetch.query import Fetched, Found, Query
from cxr_node.settings import Source
from tests.builders import make_radiograph_dataset, to_part_10

QUERY = Query(date(2024, 1, 1), date(2024, 1, 1), ("DX",))


def study(uid, modality="DX", instances=1):
    return {
        "0020000D": {"vr": "UI", "Value": [uid]},
        "00080061": {"vr": "CS", "Value": [modality]},
        "00201208": {"vr": "IS", "Value": [instances]},
        "00081190": {"vr": "UR", "BulkDataURI": "http://elsewhere"},
    }


@pytest.fixture
def make(tmp_path):
    """A source over `answer`, which gets each request; files go to a folder that must be empty in the end."""
    numbers = iter(range(10**6))
    passed: list[list[bytes]] = []

    def pass_on(paths):
        passed.append([path.read_bytes() for path in paths])
        return Passed(len(paths), 0)

    def build(answer, *, user="", secret="", take=pass_on):
        source = WebSource(
            Source(name="web", kind="dicomweb", url="http://pacs.test/dicom-web/", user=user),
            new_path=lambda: tmp_path / f"{next(numbers)}.part",
            pass_on=take,
            secret=secret,
            tls_files={},
        )
        headers, auth = source._client.headers, source._client.auth
        source._client = httpx.Client(transport=httpx.MockTransport(answer), headers=headers, auth=auth)
        source.passed = passed
        return source

    yield build
    assert list(tmp_path.iterdir()) == []


def multipart(*files, closed=True):
    body = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files)
    head = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
    return httpx.Response(200, headers=head, content=body + (b"--x--\r\n" if closed else b""))


@pytest.mark.requirement("SRS-FET-001")
def test_every_page_is_read_and_each_study_found_once(make):
    """A service that knows no offset sends its first page for ever."""
    first = [study(f"1.{number}") for number in range(PAGE)]

    def paged(request):
        assert dict(request.url.params)["StudyDate"] == "20240101"
        page = first if request.url.params["offset"] == "0" else [study("1.1"), study("2.1", instances=3)]
        return httpx.Response(200, json=page)

    found = list(make(paged).find(QUERY))
    assert len(found) == PAGE + 1
    assert found[-1] == Found("2.1", 3)
    assert len(list(make(lambda _: httpx.Response(200, json=first)).find(QUERY))) == PAGE
    assert list(make(lambda _: httpx.Response(204)).find(QUERY)) == []


@pytest.mark.requirement("SRS-FET-001")
def test_series_tell_the_modality_where_the_study_does_not(make):
    """The attribute is optional."""

    def answer(request):
        if request.url.path.endswith("/series"):
            modality = "DX" if "/1.2/" in request.url.path else "CT"
            return httpx.Response(200, json=[{"00080060": {"vr": "CS", "Value": [modality]}}])
        return httpx.Response(200, json=[{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in ("1.1", "1.2")])

    assert list(make(answer).find(QUERY)) == [Found("1.2", 0)]


@pytest.mark.requirement("SRS-FET-005")
def test_a_study_is_passed_on_byte_for_byte(make):
    """In whatever transfer syntax it is stored, with the credentials of node.toml."""
    files = [to_part_10(make_radiograph_dataset()) for _ in range(2)]
    seen = []

    def answer(request):
        seen.append((request.url.path, request.headers["accept"], request.headers["authorization"]))
        return multipart(*files)

    source = make(answer, secret="t0ken")
    assert source.fetch("1.1") == Fetched(2)
    assert source.passed == [files]
    path, accept, authorization = seen[0]
    assert (path, authorization) == ("/dicom-web/studies/1.1", "Bearer t0ken")
    assert "transfer-syntax=*" in accept
    make(answer, user="node", secret="pass").fetch("1.1")
    assert seen[1][2].startswith("Basic ")


@pytest.mark.requirement("SRS-FET-005")
def test_what_the_node_does_not_take_is_told(make):
    """The files are gone all the same."""
    source = make(lambda _: multipart(b"a", b"b"), take=lambda paths: Passed(1, 1, "the node answered 0xA700"))
    assert source.fetch("1.1") == Fetched(1, 1, "the node answered 0xA700")


@pytest.mark.requirement("SRS-FET-003")
@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (httpx.Response(401), SourceRefused, "check user and secret_file"),
        (httpx.Response(403), SourceRefused, "does not allow"),
        (httpx.Response(503), SourceUnavailable, "HTTP 503"),
        (
            httpx.Response(200, json={}, headers={"Content-Type": "application/json"}),
            SourceRefused,
            "not application/dicom",
        ),
        (multipart(b"a", b"b", closed=False), SourceUnavailable, "does not read"),
        (httpx.ConnectError("no"), SourceUnavailable, "broke the connection off"),
        (httpx.ReadTimeout("no"), SourceUnavailable, "no answer within timeout_s"),
    ],
)
def test_a_retrieval_that_fails_says_why_and_leaves_no_file(make, answer, error, said):
    """The file of a part that ended is removed too."""

    def handler(_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = make(handler)
    with pytest.raises(error, match=said):
        source.fetch("1.1")
    assert source.passed == []


@pytest.mark.requirement("SRS-FET-003")
def test_a_study_that_is_gone_is_its_own_failure(make):
    """The others are fetched all the same; a search that is not there is everybody's."""
    source = make(lambda _: httpx.Response(404))
    assert "has the study no more" in source.fetch("1.1").reason
    with pytest.raises(SourceRefused, match="check url"):
        list(source.find(QUERY))
    for body in (b"<html>", json.dumps({"a": 1}).encode(), b'[{"x": 1}]'):
        with pytest.raises(SourceUnavailable, match="no DICOM JSON"):
            list(make(lambda _, body=body: httpx.Response(200, content=body)).find(QUERY))
