"""The webhook: what a receiver can rely on, and what each of its answers leads to."""

import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest

from cxr_node.deliver.association import RejectedPermanent
from cxr_node.deliver.http import Busy
from cxr_node.deliver.webhook import Webhook
from cxr_node.errors import Disposition, Refused, Unreachable
from cxr_node.settings import Destination
from tests.cxr_node.deliver.peers import WebPeer, make_notice, plan_notice, web_serving

pytestmark = pytest.mark.requirement("SRS-DLV-207")


@pytest.fixture
def peer():
    with web_serving(WebPeer()) as running:
        yield running


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_text("s3cret key\n")
    return path


def hook(peer, **changes):
    return Destination(name="hook", kind="webhook", url=f"{peer.url}/hook/", timeout_s=2, **changes)


def send(node, destination):
    return node.sender(destination).send(node.stored(plan_notice(node, "hook", make_notice())))


def test_a_receiver_verifies_who_sent_it_and_when(node, peer, key):
    """As the module's docstring tells a receiver to: signature over timestamp and body, so neither can be replaced."""
    destination = hook(peer, secret_file=str(key))
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    sender = Webhook(destination, settings=node.settings(destination), shelf=node.shelf, now=lambda: at)
    stored = node.stored(plan_notice(node, "hook", make_notice()))
    sender.send(stored)
    (got,) = peer.received
    assert (got.method, got.path) == ("POST", "/hook/")
    signed = got.headers["x-cxr-node-timestamp"].encode() + b"." + got.body
    expected = "sha256=" + hmac.new(b"s3cret key", signed, hashlib.sha256).hexdigest()
    assert got.headers["x-cxr-node-signature"] == expected
    assert got.headers["x-cxr-node-timestamp"] == str(int(at.timestamp()))
    assert got.headers["idempotency-key"] == stored.sop_instance_uid
    body = json.loads(got.body)
    assert (body["schema"], body["effective"], body["flagged"]) == (1, "HIGH", True)
    assert "authorization" not in got.headers  # the key signs, it is never sent


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_delivered(node, peer, status):
    """Receivers differ in which they like best."""
    peer.answer = lambda request: (status, {}, b"")
    assert send(node, hook(peer)).reason == ""


@pytest.mark.requirement("SRS-DLV-208")
@pytest.mark.parametrize(
    ("status", "kind", "disposition"),
    [
        (400, Refused, Disposition.FAIL),
        (404, Refused, Disposition.FAIL),
        (410, Refused, Disposition.FAIL),
        (422, Refused, Disposition.FAIL),
        (401, RejectedPermanent, Disposition.RETRY),
        (403, RejectedPermanent, Disposition.RETRY),
        (408, Busy, Disposition.RETRY),
        (425, Busy, Disposition.RETRY),
        (429, Busy, Disposition.RETRY),
        (500, Busy, Disposition.RETRY),
        (503, Busy, Disposition.RETRY),
    ],
)
def test_each_answer_leads_to_what_it_means(node, peer, status, kind, disposition):
    """A wrong address is no network fault, and a busy server no wrong address."""
    peer.answer = lambda request: (status, {}, b"DOE JANE is unknown")
    with pytest.raises(kind) as found:
        send(node, hook(peer))
    assert found.value.disposition is disposition
    assert str(status) in str(found.value)
    assert "DOE" not in str(found.value)


def test_a_redirection_is_not_followed(node, peer):
    """Who answers with one, or stands in its place, would get the patient's data."""
    with web_serving(WebPeer()) as other:
        peer.answer = lambda request: (307, {"Location": other.url}, b"")
        with pytest.raises(Refused, match="redirection, which is not followed"):
            send(node, hook(peer))
        assert other.received == []


def test_a_key_that_cannot_be_read_sends_nothing_unsigned(node, peer, tmp_path):
    """A receiver that does not check would take it, and nobody would notice."""
    with pytest.raises(Unreachable, match="secret_file"):
        send(node, hook(peer, secret_file=str(tmp_path / "nowhere")))
    assert peer.received == []


@pytest.mark.requirement("SRS-DLV-201")
def test_a_test_is_a_signed_event_that_names_no_study(node, peer, key):
    """The only way to know that the key is right, before the first flagged study."""
    assert node.sender(hook(peer, secret_file=str(key))).test() == ""
    (got,) = peer.received
    assert json.loads(got.body) == {"event": "test", "schema": 1}
    assert got.headers["x-cxr-node-event"] == "test"
    peer.answer = lambda request: (401, {}, b"")
    assert "does not accept the signature" in node.sender(hook(peer, secret_file=str(key))).test()
