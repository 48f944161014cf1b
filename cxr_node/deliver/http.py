"""Requests to a destination that speaks HTTP: TLS, credentials, time-outs, and one sentence for every failure.

What a server writes into a body is read as an answer where the standard says so, and never shown: it may quote a
dataset.
"""

import base64
import contextlib
import email.utils
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from cxr_node.deliver.association import RejectedPermanent, tls_context, tls_trouble, word_of
from cxr_node.errors import DeliveryError, Disposition, Refused, Unreachable
from cxr_node.settings import Destination, Settings
from cxr_node.tls import Minimum

_LONGEST_BODY = 1 << 22  # of an answer
_LONGEST_WAIT_S = 3600.0  # that a server may ask for
_PATIENCE = 4  # times timeout_s for all of connection, request and answer
_CHALLENGES = (401, 403)
_MAY_PASS = (408, 425, 429)


class Busy(Refused):
    """The server asks to be left alone for a while; `retry_after_s` is how long, None where it does not say."""

    def __init__(self, message: str, status: int, retry_after_s: float | None) -> None:
        super().__init__(message, status)
        self.disposition = Disposition.RETRY
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Answer:
    """What a server answered; `body` is its first 4 MiB."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def media_type(self) -> str:
        """Content-Type without parameters, lower case."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Web:
    """The way to one HTTP service. `where` opens every sentence about it and holds no credentials."""

    name: str
    url: str
    timeout_s: float
    user: str = ""
    secret_file: Path | None = None
    tls_files: tuple[tuple[str, Path], ...] = ()
    tls_minimum: Minimum = "1.2"

    @classmethod
    def to(cls, destination: Destination, settings: Settings, *, with_credentials: bool = True) -> "Web":
        """Return the way to a destination.

        Parameters
        ----------
        with_credentials : False where `secret_file` is no password: the key that signs a webhook
        """
        tls = destination.tls
        files = {"certificate": tls.certificate, "key": tls.key, "ca": tls.ca}
        secret = destination.secret_file if with_credentials else ""
        return cls(
            name=destination.name,
            url=destination.url.rstrip("/"),
            timeout_s=destination.timeout_s,
            user=destination.user if with_credentials else "",
            secret_file=settings.path(secret) if secret else None,
            tls_files=tuple((key, settings.path(value)) for key, value in files.items() if value),
            tls_minimum=settings.node.tls_minimum,
        )

    @property
    def where(self) -> str:
        url = httpx.URL(self.url)
        return f"{self.name}: {url.copy_with(username=None, password=None, query=None, fragment=None)}"

    def ask(
        self,
        method: str,
        path: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """Send a request and return the answer, whatever its status.

        Raises
        ------
        Unreachable
            No connection, no TLS, no answer in time, or credentials that cannot be read: the sentence says which.
        """
        started = time.monotonic()
        credentials = self._credentials()
        try:
            with (
                httpx.Client(
                    verify=tls_context(self.name, dict(self.tls_files), self.tls_minimum) if self._is_secure else False,
                    timeout=self.timeout_s,
                    trust_env=False,  # node.toml alone says where results go: no proxy, no netrc of whoever started it
                ) as client,
                client.stream(
                    method,
                    f"{self.url}{path}",
                    headers={**credentials, **(headers or {})},
                    params=params,
                    content=content,
                ) as response,
            ):
                body = b""
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) >= _LONGEST_BODY:
                        break
                    if time.monotonic() - started > _PATIENCE * self.timeout_s:
                        raise httpx.ReadTimeout("the answer comes byte by byte")
                return Answer(response.status_code, response.headers, body)
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self.where} did not answer within timeout_s = {self.timeout_s:g}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{self.where}: {self._trouble(error)}") from error

    def failure(self, answer: Answer, asked: str) -> DeliveryError:
        """Return the error for an answer that is none of success: who has to act, or whether it may pass.

        Parameters
        ----------
        asked : the request in a word, for the sentence: "STOW-RS"

        Source: RFC 9110 15, PS3.18 10.5.3.1.
        """
        status = answer.status
        said = f"{self.where} answered {asked} with {status}"
        if status == 401:
            given = "refuses these credentials" if self.secret_file else "asks for credentials"
            return RejectedPermanent(f"{said}: it {given}; check user and secret_file of the destination")
        if status in _CHALLENGES:
            return RejectedPermanent(f"{said}: it does not allow this; grant the node's account the right there")
        if status in _MAY_PASS or status >= 500:
            if status == 501:
                return _given_up(f"{said}, not implemented: it offers no such service", status)
            return Busy(f"{said}, which may pass", status, _retry_after_s(answer))
        if 300 <= status < 400:
            return _given_up(f"{said}, a redirection, which is not followed: set url to the address itself", status)
        known = {
            400: "it cannot read the request",
            404: "nothing is served at this address; check url of the destination",
            405: "the service at this address takes no such request; check url of the destination",
            406: "it offers no answer in a form that the node reads",
            409: "it stored nothing",
            411: "it asks for a length",
            413: "the object is larger than it takes; raise the limit there",
            415: "it does not take this kind of content",
        }
        return _given_up(f"{said}: {known.get(status, 'it refuses')}", status)

    @property
    def _is_secure(self) -> bool:
        return self.url.lower().startswith("https:")

    def _credentials(self) -> dict[str, str]:
        secret = read_secret(self.name, self.secret_file)
        if not secret.isprintable():
            raise Unreachable(f"{self.name}: secret_file {self.secret_file} holds more than one line of text")
        if self.user:
            pair = f"{self.user}:{secret}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}
        if not secret.isascii():
            raise Unreachable(
                f"{self.name}: secret_file {self.secret_file} holds no token: other than ASCII characters"
            )
        return {"Authorization": f"Bearer {secret}"} if secret else {}

    def _trouble(self, error: Exception) -> str:
        """Say what the connection met; httpx wraps the system's own error."""
        if isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError) and not self._is_secure:
            return "it broke the connection off, or speaks no HTTP there (a TLS port does so: try https in url)"
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return f"its TLS certificate is not accepted: {cause.verify_message}"
            if isinstance(cause, ssl.SSLError):
                return tls_trouble(cause)
            if isinstance(cause, socket.gaierror):
                return "its name does not resolve to an address"
            if isinstance(cause, OSError):
                return word_of(cause)
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
            return "this is no address of a web service; check url of the destination"
        return "it broke the connection off"


def read_secret(name: str, path: Path | None) -> str:
    """Return the password, token or key of a secret file, without the line end that editors add; empty without a file.

    Raises
    ------
    Unreachable
        It cannot be read. Its content is never part of the sentence.
    """
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise Unreachable(f"{name}: secret_file {path} cannot be read: {why}") from error


def _given_up(message: str, status: int) -> Refused:
    error = Refused(message, status)
    error.disposition = Disposition.FAIL
    return error


def _retry_after_s(answer: Answer) -> float | None:
    """Return what Retry-After asks for, in seconds or as a date. Source: RFC 9110 10.2.3."""
    text = str(answer.headers.get("retry-after", "")).strip()
    if text.isdigit():
        return min(float(text), _LONGEST_WAIT_S)
    with contextlib.suppress(ValueError, TypeError):
        due = email.utils.parsedate_to_datetime(text)
        return min(max(0.0, (due - datetime.now(UTC)).total_seconds()), _LONGEST_WAIT_S)
    return None
