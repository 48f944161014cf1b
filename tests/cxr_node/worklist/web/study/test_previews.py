"""Previews over HTTP, and the process that makes them: what a broken image can break."""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cxr_node.worklist.web.study.previews import MOST_WAITING, NoPreview, Previews, PreviewsBusy
from storage import audit, instances
from tests.builders import make_pixels, make_radiograph_dataset, to_part_10
from tests.cxr_node.worklist.conftest import NOON

pytestmark = pytest.mark.requirement("SRS-STU-002")


@pytest.fixture(scope="module")
def previews():
    """The real process."""
    made = Previews()
    yield made
    made.close()


@pytest.fixture
def keep(ward, database, services):
    """Store an image of study 1.2 as receive does; return the path of its API."""
    ward.add("1.2", status="pending")

    def kept(data: bytes, uid: str = "1.2.9") -> str:
        temporary = services.files.new_temporary()
        temporary.write_bytes(data)
        location = services.files.keep(temporary, uid, 0)
        with database.begin() as connection:
            instances.add(
                connection,
                sop_instance_uid=uid,
                series_instance_uid="1.2.0",
                study_instance_uid="1.2",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                variant=0,
                size=len(data),
                location=location,
                calling_ae_title="CR_ROOM_1",
                called_ae_title="CXR_NODE",
                peer_address="127.0.0.1",
                association_id="1",
                received_at=NOON,
            )
        return f"/api/studies/1.2/images/{uid}"

    return kept


def fake(text: str) -> Previews:
    """Previews by a process that runs this Python text."""
    return Previews([sys.executable, "-c", text], timeout_s=5)


def test_the_values_of_an_image_come_as_they_are_stored(client, keep):
    """All bits: the reader moves the window over them, not over 256 grays that somebody chose."""
    pixels = make_pixels(300, 200)
    path = keep(to_part_10(make_radiograph_dataset(pixels, WindowCenter=2000, WindowWidth=1000)))
    about = client.get(f"{path}/preview").json()
    answer = client.get(f"{path}/pixels")
    assert (answer.headers["x-rows"], answer.headers["x-columns"]) == ("300", "200")
    values = np.frombuffer(answer.content, "<u2").reshape(300, 200)
    assert np.array_equal(values.astype(int) + about["lowest"], pixels)
    assert (about["window_low"], about["window_high"], about["inverted"]) == (1500, 2500, False)
    reduced = client.get(f"{path}/pixels?size=512")
    assert len(reduced.content) == 2 * 300 * 200


def test_looking_at_an_image_is_on_record(client, keep, database):
    """Access to patient data, even reduced."""
    path = keep(to_part_10(make_radiograph_dataset(make_pixels(16, 16))))
    client.get(f"{path}/pixels")
    with database.read() as connection:
        events = [event.event for event in audit.events(connection, study_instance_uid="1.2")]
    assert events.count("image_previewed") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"no DICOM at all",
        to_part_10(make_radiograph_dataset(SamplesPerPixel=3, PhotometricInterpretation="RGB")),
        to_part_10(make_radiograph_dataset())[:-3000],
        to_part_10(make_radiograph_dataset(RescaleSlope=0)),
    ],
)
def test_an_image_without_a_preview_is_told_with_the_reason(client, keep, data):
    """And the next one is shown as ever."""
    refused = client.get(f"{keep(data)}/preview")
    assert refused.status_code == 409
    assert refused.json()["detail"]
    assert client.get(f"{keep(to_part_10(make_radiograph_dataset()), '1.2.10')}/preview").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/studies/1.2/images/1.2.1/preview", 404),  # its file is gone
        ("/api/studies/1.2/images/1.2.999/preview", 404),
        ("/api/studies/1.9/images/1.2.9/preview", 404),  # of another study
        ("/api/studies/1.2/images/1.2.9/pixels?variant=3", 404),
        ("/api/studies/1.2/images/1.2.9/pixels?variant=99999999999999999999", 422),
        ("/api/studies/1.2/images/1.2.9/pixels?size=1000000", 422),
        ("/api/studies/1.2/images/%00/pixels", 404),
        ("/api/studies/%F0%9F/images", 404),
        ("/api/studies/1.9/images", 404),
    ],
)
def test_what_is_not_here_is_told_so(client, keep, path, status):
    """No guess at a UID finds another study's image."""
    keep(to_part_10(make_radiograph_dataset()))
    assert client.get(path).status_code == status


def test_a_codec_that_ends_its_process_costs_that_preview_only(tmp_path):
    """It runs on a sender's bytes; the worklist must not go with it."""
    with pytest.raises(NoPreview, match="ended"):
        fake("import os, sys; sys.stdin.readline(); os.abort()").preview(tmp_path, 100)


def test_a_codec_that_never_comes_back_is_ended(tmp_path):
    """An endless loop in a library holds no reader for longer than the time-out."""
    previews = Previews([sys.executable, "-c", "import time; time.sleep(600)"], timeout_s=0.5)
    with pytest.raises(NoPreview, match="too long"):
        previews.preview(tmp_path, 100)


@pytest.mark.parametrize(
    "answer",
    [
        '\'{"rows": 100000, "columns": 100000, "description": {}}\\n\'',
        '\'{"rows": -1, "columns": 1}\\n\'',
        "'[]\\n'",
        "'no JSON\\n'",
        "'x' * 200000",
    ],
)
def test_an_answer_that_cannot_be_is_refused(tmp_path, answer):
    """The decoder is not trusted: what took it over must not fill the worklist's memory."""
    text = f"import sys; sys.stdin.readline(); sys.stdout.write({answer}); sys.stdout.flush()"
    with pytest.raises(NoPreview, match="could not be decoded"):
        fake(text).preview(tmp_path, 100)


def test_a_process_that_ended_for_want_of_work_is_started_anew(tmp_path):
    """It gives its memory back at night; the first reader of the morning sees a preview."""
    head = '{"description": {}, "rows": 1, "columns": 1}'
    once = f"import sys; sys.stdin.readline(); sys.stdout.write('{head}\\nab'); sys.stdout.flush()"
    previews = fake(once)
    assert previews.preview(tmp_path / "1", 100).values == b"ab"
    assert previews.preview(tmp_path / "2", 100).values == b"ab"
    previews.close()


def test_a_crowd_is_sent_away_rather_than_holding_every_thread(tmp_path):
    """Those who wait for previews must not keep the list from those who read."""
    previews = Previews([sys.executable, "-c", "import time; time.sleep(600)"], timeout_s=1.5)
    outcomes: list[str] = []

    def ask(number: int) -> None:
        try:
            previews.preview(tmp_path / str(number), 100)
        except (NoPreview, PreviewsBusy) as error:
            outcomes.append(type(error).__name__)

    waiting = [threading.Thread(target=ask, args=(number,)) for number in range(MOST_WAITING)]
    for thread in waiting:
        thread.start()
    started = time.monotonic()
    while previews.has_place and time.monotonic() < started + 5:
        time.sleep(0.01)
    started = time.monotonic()
    with pytest.raises(PreviewsBusy):
        previews.preview(tmp_path / "last", 100)
    assert time.monotonic() - started < 1
    for thread in waiting:
        thread.join()
    assert len(outcomes) == MOST_WAITING


def test_many_readers_get_their_previews_from_one_process(previews, tmp_path):
    """In turn, each its own image."""
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(to_part_10(make_radiograph_dataset(make_pixels(20 + number, 20))))
    found: dict[Path, int] = {}
    threads = [
        threading.Thread(target=lambda path=path: found.__setitem__(path, previews.preview(path, 100).rows))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[path] for path in paths] == [20, 21, 22, 23]
