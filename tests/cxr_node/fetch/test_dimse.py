"""C-FIND and C-MOVE against an SCP that does as told."""

import re
import socket
from datetime import date

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, evt

from cxr_node.errors import SourceRefused, SourceUnavailable
from cxr_node.fetch.dimse import FIND, MOVE, DimseSource
from cxr_node.fetch.query import Fetched, Found, Query
from cxr_node.fetch.statuses import move_error
from cxr_node.settings import Source
from tests.builders import make_radiograph_dataset

QUERY = Query(date(2024, 1, 1), date(2024, 1, 2), ("DX",))


def answer(uid, *, modalities=None, instances=None, modality=None):
    item = Dataset()
    item.StudyInstanceUID = uid
    if modalities is not None:
        item.ModalitiesInStudy = modalities
    if instances is not None:
        item.NumberOfStudyRelatedInstances = instances
    if modality is not None:
        item.Modality = modality
    return item


@pytest.fixture
def start():
    """Start an SCP; `find` gets each identifier and yields (status, dataset), `move` yields what pynetdicom expects."""
    servers = []

    def begin(*, find=None, move=None, contexts=(FIND, MOVE), required=()):
        ae = AE(ae_title="PACS")
        for context in contexts:
            ae.add_supported_context(context)
        ae.require_calling_aet = list(required)
        ae.require_called_aet = True
        handlers = []
        if find is not None:
            handlers.append((evt.EVT_C_FIND, lambda event: find(event.identifier)))
        if move is not None:
            handlers.append((evt.EVT_C_MOVE, move))
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        servers.append(server)
        return make(server.server_address[1])

    yield begin
    for server in servers:
        server.shutdown()


def make(port, ae_title="PACS"):
    source = Source(name="pacs", ae_title=ae_title, host="127.0.0.1", port=port, timeout_s=30)
    return DimseSource(source, own_ae_title="CXR_NODE", own_port=11112, tls_files={})


@pytest.mark.requirement("SRS-FET-001")
def test_each_day_is_asked_for_and_each_study_found_once(start):
    """Many archives cut long answers off; a study that comes twice is one."""
    asked = []

    def find(keys):
        asked.append((keys.QueryRetrieveLevel, keys.StudyDate, keys.ModalitiesInStudy))
        yield 0xFF00, answer("1.1", modalities=["DX", "SR"], instances="2")
        yield 0xFF00, answer("1.2", modalities="CT", instances="200")
        yield 0xFF00, answer("not a UID", modalities="DX")

    assert list(start(find=find).find(QUERY)) == [Found("1.1", 2)]
    assert asked == [("STUDY", "20240101", "DX"), ("STUDY", "20240102", "DX")]


@pytest.mark.requirement("SRS-FET-001")
def test_a_source_that_does_not_know_the_modality_key_is_asked_for_series(start):
    """ModalitiesInStudy is optional for it; answers come without."""

    def find(keys):
        if keys.QueryRetrieveLevel == "STUDY":
            yield 0xFF01, answer("1.1")
            yield 0xFF01, answer("1.2")
        else:
            yield 0xFF00, answer(keys.StudyInstanceUID, modality="DX" if keys.StudyInstanceUID == "1.2" else "CT")

    assert list(start(find=find).find(QUERY)) == [Found("1.2", 0)]


def statuses(status):
    def find(_):
        yield status, None

    return find


@pytest.mark.requirement("SRS-FET-003")
@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (0xA700, SourceUnavailable, "ask for fewer days"),
        (0xA900, SourceRefused, "no such C-FIND query"),
        (0xC001, SourceRefused, "0xC001"),
    ],
)
def test_a_query_that_fails_is_told(start, status, error, said):
    """Half an answer is no list."""
    with pytest.raises(error, match=said):
        list(start(find=statuses(status)).find(QUERY))


@pytest.mark.requirement("SRS-FET-003")
@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (0xA801, SourceRefused, "add the AE CXR_NODE .*port 11112"),
        (0xA701, SourceUnavailable, "cannot count the matches"),
        (0xA702, SourceUnavailable, "check that it reaches CXR_NODE on port 11112"),
        (0xA900, SourceRefused, "no such C-MOVE identifier"),
        (0x0124, SourceRefused, "not authorize"),
        (0xFE00, SourceUnavailable, "cancelled"),
        (0x0110, SourceUnavailable, "0x0110"),
    ],
)
def test_a_move_that_fails_as_a_whole_says_what_to_do(status, error, said):
    """By the status of the standard."""
    found = move_error("pacs", status, "CXR_NODE", 11112)
    assert type(found) is error
    assert re.search(said, str(found))


@pytest.mark.requirement("SRS-FET-003")
def test_an_unknown_move_destination_is_heard_on_the_wire(start):
    """The commonest fault of a site's first run."""

    def move(_):
        yield None, None

    with pytest.raises(SourceRefused, match="add the AE CXR_NODE"):
        start(move=move).fetch("1.1")


@pytest.mark.requirement("SRS-FET-002")
def test_sub_operations_are_counted(start):
    """All sent, or so many failed; a study that it cannot process is that study's failure alone."""
    receiver = AE(ae_title="CXR_NODE")
    receiver.add_supported_context("1.2.840.10008.5.1.4.1.1.1.1")
    stored = []

    def store(event):
        stored.append(event.request.AffectedSOPInstanceUID)
        return 0x0000 if len(stored) != 2 else 0xA700

    server = receiver.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])

    def move(event):
        context = build_context("1.2.840.10008.5.1.4.1.1.1.1")
        yield "127.0.0.1", server.server_address[1], {"contexts": [context]}
        number = 1 if event.identifier.StudyInstanceUID == "1.1" else 2
        yield number
        for _ in range(number):
            yield 0xFF00, make_radiograph_dataset()

    try:
        source = start(move=move)
        assert source.fetch("1.1") == Fetched(1)
        fetched = source.fetch("1.2")
    finally:
        server.shutdown()
    assert (fetched.sent, fetched.failed, len(fetched.failed_uids)) == (1, 1, 1)
    assert "could not send 1 of 2 instances (0xB000)" in fetched.reason


@pytest.mark.requirement("SRS-FET-003")
def test_no_association_is_explained(start):
    """Wrong AE titles here or there, no such service, nobody there."""
    known = start(find=statuses(0x0000))
    port = known._source.port
    with pytest.raises(SourceRefused, match="does not go by that AE title"):
        list(make(port, "WRONG").find(QUERY))
    with pytest.raises(SourceRefused, match="does not know the calling AE title CXR_NODE"):
        list(start(find=statuses(0x0000), required=["OTHER"]).find(QUERY))
    with pytest.raises(SourceRefused, match="offers no C-MOVE"):
        start(contexts=(FIND,)).fetch("1.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    with pytest.raises(SourceUnavailable, match="does not answer"):
        list(make(closed).find(QUERY))
