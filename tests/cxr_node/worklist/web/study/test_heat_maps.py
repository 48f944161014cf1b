"""Heat maps over HTTP, in profile research."""

import pytest

from cxr_node.worklist.web.study.heat_maps_api import NOT_VALIDATED
from storage import audit, heat_maps
from tests.cxr_node.worklist.conftest import with_worklist
from tests.cxr_node.worklist.web.study.conftest import IMAGE, UID

pytestmark = pytest.mark.requirement("SRS-STU-007")

BASE = f"/api/studies/{UID}/images/{IMAGE}/heat-maps"
WANTED = {"model": "pneumonia-adult", "finding": "pneumonia"}


@pytest.fixture
def client(make_client, settings, study):
    """A client of a research node with one flagged study."""
    return make_client(with_worklist(settings, profile="research"))


def test_a_map_is_asked_for_watched_and_fetched(client, database, services):
    """The page does these three; whoever fetched a picture is on record."""
    answer = client.post(BASE, json=WANTED)
    assert answer.status_code == 202
    asked = answer.json()
    assert (asked["state"], asked["notice"]) == ("asked", NOT_VALIDATED)
    assert client.get(f"{BASE}/{asked['id']}/picture").status_code == 404
    location = services.files.write_object("heat-map:1", b"\x89PNG")
    with database.begin() as connection:
        heat_maps.settle(connection, asked["id"], location=location)
    assert client.get(f"{BASE}/{asked['id']}").json()["state"] == "made"
    picture = client.get(f"{BASE}/{asked['id']}/picture")
    assert (picture.content, picture.headers["content-type"]) == (b"\x89PNG", "image/png")
    with database.begin() as connection:
        heat_maps.settle(connection, asked["id"], location="")
        events = [event.event for event in audit.events(connection, study_instance_uid=UID)]
    assert {"heat_map_asked", "heat_map_read"} <= set(events)
    assert client.get(f"{BASE}/{asked['id']}").json()["state"] == "empty"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (BASE, WANTED | {"finding": "abnormal"}, 409),
        (BASE, WANTED | {"model": "another"}, 409),
        (BASE, WANTED | {"priority": "high"}, 422),
        (f"/api/studies/{UID}/images/9.9/heat-maps", WANTED, 404),
        (f"/api/studies/9.9/images/{IMAGE}/heat-maps", WANTED, 404),
    ],
)
def test_only_a_score_of_the_current_result_has_a_map(client, path, body, status):
    """Nobody fills the queue with what was never scored."""
    assert client.post(path, json=body).status_code == status


@pytest.mark.parametrize("number", ["0", "2", "99999999999999999999", "x", "-1", "%00", "\u0661"])
def test_a_number_that_is_no_map_of_the_image_is_unknown(client, number):
    """Odd ones too: no number is an error of the server."""
    client.post(BASE, json=WANTED)
    assert client.get(f"{BASE}/{number}").status_code == 404


def test_the_page_offers_the_map_and_says_that_it_is_no_localisation(client):
    """With a legend and an opacity, so that the picture below stays in charge."""
    page = client.get(f"/studies/{UID}").text
    assert NOT_VALIDATED in page
    assert 'data-model="pneumonia-adult" data-finding="pneumonia"' in page
    assert 'data-range="opacity"' in page
