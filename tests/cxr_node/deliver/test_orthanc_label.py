"""Labels in Orthanc, by a peer that answers as its REST API does; the real one is in the system tests."""

import pytest

from cxr_node.deliver.orthanc_label import has_labels
from cxr_node.deliver.policy import NotTakenYet
from cxr_node.errors import Disposition, Refused
from cxr_node.settings import Destination
from tests.cxr_node.deliver.peers import OrthancPeer, WebPeer, make_notice, plan_notice, web_serving

pytestmark = pytest.mark.requirement("SRS-DLV-209")

ONE, OTHER = "-".join(["0123abcd"] * 5), "-".join(["4567abcd"] * 5)


@pytest.fixture
def orthanc():
    return OrthancPeer(studies={"1.2.3": [(ONE, "P1")]})


@pytest.fixture
def peer(orthanc):
    with web_serving(WebPeer(answer=orthanc)) as running:
        yield running


def sender(node, peer, **changes):
    return node.sender(Destination(name="orthanc", kind="orthanc-label", url=peer.url, timeout_s=2, **changes))


def stored(node, **changes):
    return node.stored(plan_notice(node, "orthanc", make_notice(**changes)))


def test_a_flagged_study_gets_the_label_of_the_site(node, peer, orthanc):
    """Explorer 2 filters by it."""
    sender(node, peer, label="look-first").send(stored(node))
    assert orthanc.labels == {(ONE, "look-first")}


def test_a_study_that_is_not_flagged_is_left_alone_and_no_label_is_taken_away(node, peer, orthanc):
    """Another system, or an earlier revision, may have set it: a priority is never lowered."""
    orthanc.labels.add((ONE, "ai-priority"))
    sent = sender(node, peer).send(stored(node, flagged=False))
    assert sent.skipped
    assert orthanc.labels == {(ONE, "ai-priority")}
    assert peer.received == []


def test_a_study_that_is_not_there_yet_is_waited_for(node, peer, orthanc):
    """The node may be faster than the archive."""
    orthanc.studies = {}
    with pytest.raises(NotTakenYet, match="does not have the study yet") as found:
        sender(node, peer).send(stored(node))
    assert found.value.disposition is Disposition.RETRY


def test_of_two_patients_under_one_study_uid_only_the_right_one_is_labeled(node, peer, orthanc):
    """Orthanc keeps two studies then; the label of one must not stand on the other."""
    orthanc.studies["1.2.3"] = [(OTHER, "P2"), (ONE, "P1")]
    sender(node, peer).send(stored(node))
    assert orthanc.labels == {(ONE, "ai-priority")}
    with pytest.raises(Refused, match="under other patients only"):
        sender(node, peer).send(stored(node, patient_id="P3", revision=2))


def test_an_old_orthanc_gets_metadata_and_the_delivery_says_so(node, peer, orthanc):
    """Debian 12 has 1.10, which has no labels."""
    orthanc.version = "1.10.1"
    sent = sender(node, peer).send(stored(node))
    assert orthanc.metadata == {(ONE, "ai-priority")}
    assert sent.reason == "set as metadata: Orthanc 1.10.1 has no labels, 1.12 and later do"
    assert "no labels: update it" in sender(node, peer).test()


def test_an_old_orthanc_that_takes_no_metadata_either_is_a_dead_letter_that_says_what_to_do(node, peer, orthanc):
    """Nothing will come of trying again."""
    orthanc.version, orthanc.metadata_registered = "1.11.3", False
    with pytest.raises(Refused, match='register "UserMetadata"') as found:
        sender(node, peer).send(stored(node))
    assert found.value.disposition is Disposition.FAIL


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.12.0", True), ("1.9.7", False), ("1.11.3", False), ("2.0.0", True), ("mainline", True)],
)
def test_versions_are_compared_as_numbers(version, expected):
    """1.9 is older than 1.12."""
    assert has_labels(version) is expected


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"Version": 3}'])
def test_another_service_at_the_address_is_named(node, peer, body):
    """A url that ends one path too early answers, and is no Orthanc."""
    peer.answer = lambda request: (200, {}, body)
    assert "check url" in sender(node, peer).test()
    with pytest.raises(Refused):
        sender(node, peer).send(stored(node))
