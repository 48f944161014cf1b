"""Destination `webhook`: posts the notice of a study's priority as signed JSON.

The body is the stored notice, byte for byte: a JSON object, UTF-8, with ``schema`` (1) and the fields of
`cxr_node.reporting.Notice` by their names, among them ``study_instance_uid``, ``revision``, ``status``, ``flagged``,
``ordered``, ``ai``, ``effective`` and ``reason``. A test has the body ``{"event": "test", "schema": 1}``. Headers:

```
X-CXR-Node-Event       priority | test
X-CXR-Node-Timestamp   seconds since 1970, when it was sent
X-CXR-Node-Signature   sha256=HEX, HMAC-SHA256 with the key in secret_file over timestamp, "." and body
Idempotency-Key        the notice's UID: the same each time this notice is sent
```

Without a `secret_file` there is no signature. A receiver verifies (and refuses a timestamp that is too old)::

    signed = request.headers["X-CXR-Node-Timestamp"].encode() + b"." + body
    expected = "sha256=" + hmac.new(key, signed, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(expected, request.headers["X-CXR-Node-Signature"])
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from cxr_node.clock import utc_now
from cxr_node.deliver.association import RejectedPermanent
from cxr_node.deliver.http import Answer, Web, read_secret
from cxr_node.deliver.objects import Sent, Shelf, StoredObject, bytes_of
from cxr_node.errors import DeliveryError
from cxr_node.settings import Destination, Settings

TEST_BODY = b'{"event": "test", "schema": 1}'


class Webhook:
    """Posts to one address. Redirections are not followed: what it tells is of patients."""

    def __init__(
        self, destination: Destination, *, settings: Settings, shelf: Shelf, now: Callable[[], datetime] = utc_now
    ) -> None:
        # The address as it stands in node.toml: a slash at its end may be another resource.
        self._web = replace(Web.to(destination, settings, with_credentials=False), url=destination.url)
        self._secret_file = settings.path(destination.secret_file) if destination.secret_file else None
        self._now = now

    def send(self, stored: StoredObject) -> Sent:
        """Post the stored bytes; 2xx is success.

        Raises
        ------
        Unreachable, RejectedPermanent, Busy, Refused
            See `Web.failure`: 401 and 403 wait for a person, 408, 425, 429 and 5xx pass, every other 4xx is for good.
        StorageUnavailable
        """
        answer = self._post("priority", bytes_of(stored), stored.sop_instance_uid)
        if not 200 <= answer.status < 300:
            raise self._failure(answer)
        return Sent(stored.sop_class_uid, stored.sop_instance_uid)

    def test(self) -> str:
        """Post a signed test event and return a sentence where the answer is not 2xx."""
        try:
            answer = self._post("test", TEST_BODY, "test")
        except DeliveryError as error:
            return str(error)
        return "" if 200 <= answer.status < 300 else str(self._failure(answer))

    def _post(self, event: str, body: bytes, key: str) -> Answer:
        timestamp = str(int(self._now().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "X-CXR-Node-Event": event,
            "X-CXR-Node-Timestamp": timestamp,
            "Idempotency-Key": key,
        }
        if self._secret_file is not None:
            secret = read_secret(self._web.name, self._secret_file)
            headers["X-CXR-Node-Signature"] = sign(secret.encode("utf-8"), timestamp, body)
        return self._web.ask("POST", headers=headers, content=body)

    def _failure(self, answer: Answer) -> DeliveryError:
        if answer.status in (401, 403):
            return RejectedPermanent(
                f"{self._web.where} answered the webhook with {answer.status}: it does not accept the signature; "
                "check that secret_file of the destination holds the key that is set there"
            )
        return self._web.failure(answer, "the webhook")


def sign(key: bytes, timestamp: str, body: bytes) -> str:
    """Return the signature as the header has it."""
    return "sha256=" + hmac.new(key, timestamp.encode("ascii") + b"." + body, hashlib.sha256).hexdigest()
