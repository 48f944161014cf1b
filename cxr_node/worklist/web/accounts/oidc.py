"""The site's identity provider: where it is, what it says of a person, and whether that is to be believed.

Sources: OpenID Connect Core 1.0 sections 3.1.2 and 3.1.3, Discovery 1.0 section 4, RFC 7636 (PKCE), RFC 9207.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError
from cxr_node.settings import Oidc, Settings
from cxr_node.tls import Minimum, client_context

TIMEOUT_S = 5.0
AT_ONCE = 8  # a provider that hangs, and strangers who click, must not hold all threads of the page
AGAIN_AFTER = timedelta(seconds=10)  # where it did not answer
KEPT = timedelta(hours=1)
KEYS_AGAIN_AFTER = timedelta(seconds=30)  # a forged key id must not make this node ask the provider at every try
LEEWAY_S = 60
# Signatures by a key pair. Never "none", and never HS256, whose key would be the secret of the client.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
_ROLES = ("admin", "auditor", "reader")  # the first one that a person has counts


class ProviderUnavailable(CxrNodeError):
    """The provider does not answer, or what it answers is no OpenID Connect."""


class NotBelieved(CxrNodeError):
    """The ID token is not one of this sign-in: forged, old, or meant for another."""


class ClaimMissing(CxrNodeError):
    """The ID token is sound, but does not say what this node has to know; the message says what."""


@dataclass(frozen=True)
class Identity:
    """Who signed in at the provider. Issuer and subject are who they are, the login only how they are called."""

    issuer: str
    subject: str
    login: str
    display_name: str
    role: str


class Provider:
    """The provider of node.toml."""

    def __init__(self, settings: Settings, now: Callable[[], datetime] = utc_now) -> None:
        self._oidc: Oidc = settings.worklist.oidc
        self._minimum = settings.node.tls_minimum
        self._secret_file = settings.path(self._oidc.client_secret_file) if self._oidc.client_secret_file else None
        self._now = now
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._failed_at: datetime | None = None
        self._metadata: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._metadata_at: datetime | None = None
        self._keys_at: datetime | None = None

    def authorize_url(self, *, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Return where a browser is sent to sign in.

        Raises
        ------
        ProviderUnavailable
        """
        asked = {
            "response_type": "code",
            "client_id": self._oidc.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._oidc.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        with self._one_of_few():
            return str(add_params_to_uri(self._endpoint("authorization_endpoint"), list(asked.items())))

    def identify(self, code: str, *, redirect_uri: str, nonce: str, verifier: str) -> Identity:
        """Return who it is that came back with the code.

        Raises
        ------
        ProviderUnavailable, NotBelieved, ClaimMissing
        """
        with self._one_of_few():
            return self._identity(self._believed(self._id_token(code, redirect_uri, verifier), nonce))

    def sign_out_url(self, back: str) -> str:
        """Return where a browser ends its session at the provider; empty where the provider has no such address.

        Raises
        ------
        ProviderUnavailable
        """
        with self._one_of_few():
            address = str(self._known().get("end_session_endpoint") or "")
        if not address.startswith(("https://", "http://")):
            return ""
        params = [("client_id", self._oidc.client_id), ("post_logout_redirect_uri", back)]
        return str(add_params_to_uri(address, params))

    @contextmanager
    def _one_of_few(self) -> Iterator[None]:
        if not self._free.acquire(blocking=False):
            raise ProviderUnavailable("too many people sign in at once")
        try:
            yield
        finally:
            self._free.release()

    def _id_token(self, code: str, redirect_uri: str, verifier: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        secret = self._secret()
        auth = None
        if not secret:
            form["client_id"] = self._oidc.client_id
        elif self._posts_secret():
            form |= {"client_id": self._oidc.client_id, "client_secret": secret}
        else:
            auth = httpx.BasicAuth(self._oidc.client_id, secret)
        address = self._endpoint("token_endpoint")
        try:
            answer = httpx.post(
                address,
                data=form,
                auth=auth,
                timeout=TIMEOUT_S,
                headers={"Accept": "application/json"},
                verify=client_context({}, minimum=self._minimum),
            )
            found = answer.json() if answer.status_code < 500 else None
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderUnavailable(f"{address}: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise ProviderUnavailable(f"{address}: status {answer.status_code}")
        if answer.status_code != 200 or not isinstance(found.get("id_token"), str):
            word = str(found.get("error") or "no ID token")[:60]
            raise NotBelieved(f"the provider did not take the code: {word}")
        return str(found["id_token"])

    def _believed(self, id_token: str, nonce: str) -> Mapping[str, Any]:
        registry = JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
        try:
            try:
                token = jwt.decode(id_token, self._key_set(), registry=registry)
            except JoseError:
                # The provider may have changed its keys since they were fetched.
                token = jwt.decode(id_token, self._key_set(again=True), registry=registry)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self._oidc.issuer},
                    "aud": {"essential": True, "value": self._oidc.client_id},
                },
                {"nonce": nonce, "client_id": self._oidc.client_id},
            )
            claims.validate(now=int(self._now().timestamp()), leeway=LEEWAY_S)
        except ProviderUnavailable:
            raise
        # ValueError, TypeError, KeyError: a token that is none, or claims of other types than the standard's.
        except (JoseError, AuthlibBaseError, ValueError, TypeError, KeyError) as error:
            raise NotBelieved(f"the ID token is refused: {_short(error)}") from error
        return dict(token.claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        login, subject = _claim(claims, self._oidc.login_claim), claims.get("sub")
        if not isinstance(subject, str) or not subject or len(subject) > 255:
            raise ClaimMissing("the ID token has no usable claim sub")
        if not isinstance(login, str) or not login.strip() or len(login) > 128 or not login.isprintable():
            raise ClaimMissing(f"the ID token has no usable claim {self._oidc.login_claim}, which holds the login")
        held = _claim(claims, self._oidc.role_claim)
        values = [held] if isinstance(held, str) else held if isinstance(held, list) else []
        names = {value for value in values if isinstance(value, str)}
        role = next((role for role in _ROLES if names & set(getattr(self._oidc, role))), "")
        if not role and "*" in self._oidc.reader:
            role = "reader"
        if not role:
            raise ClaimMissing(
                f"{login} has no role here: the claim {self._oidc.role_claim} "
                + ("is missing" if held is None else "holds none of the values that node.toml names")
            )
        name = claims.get("name")
        display = " ".join(name.split())[:100] if isinstance(name, str) and name.isprintable() else ""
        return Identity(self._oidc.issuer, subject, login, display, role)

    def _secret(self) -> str:
        if self._secret_file is None:
            return ""
        try:
            return self._secret_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ProviderUnavailable("worklist.oidc.client_secret_file cannot be read") from error

    def _posts_secret(self) -> bool:
        """Whether the provider takes the secret in the form only; by default it is in the header."""
        methods = self._known().get("token_endpoint_auth_methods_supported")
        return isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods

    def _endpoint(self, name: str) -> str:
        address = self._known().get(name)
        if not isinstance(address, str) or not address.startswith(("https://", "http://")):
            raise ProviderUnavailable(f"the provider names no {name}")
        return address

    def _known(self) -> dict[str, Any]:
        with self._lock:
            if self._metadata_at is None or self._now() - self._metadata_at > KEPT:
                if self._failed_at is not None and self._now() - self._failed_at < AGAIN_AFTER:
                    raise ProviderUnavailable("the provider did not answer a moment ago")
                try:
                    found = _get(f"{self._oidc.issuer.rstrip('/')}/.well-known/openid-configuration", self._minimum)
                except ProviderUnavailable:
                    self._failed_at = self._now()
                    raise
                if found.get("issuer") != self._oidc.issuer:
                    raise ProviderUnavailable(f"the provider calls itself otherwise than {self._oidc.issuer}")
                self._metadata, self._metadata_at = found, self._now()
            return self._metadata

    def _key_set(self, *, again: bool = False) -> KeySet:
        address = self._endpoint("jwks_uri")
        with self._lock:
            age = None if self._keys_at is None else self._now() - self._keys_at
            if self._keys is None or age is None or age > (KEYS_AGAIN_AFTER if again else KEPT):
                self._keys, self._keys_at = KeySet.import_key_set(_get(address, self._minimum)), self._now()  # type: ignore[arg-type]
            return self._keys


def _get(address: str, minimum: Minimum) -> dict[str, Any]:
    try:
        # The machine's own authorities: those of a hospital stand there, and not in the library's list.
        answer = httpx.get(address, timeout=TIMEOUT_S, verify=client_context({}, minimum=minimum))
        found = answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ProviderUnavailable(f"{address}: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise ProviderUnavailable(f"{address}: status {answer.status_code}")
    return found


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim; where none has that name, dots lead into objects, as in Keycloak's ``realm_access.roles``."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _short(error: Exception) -> str:
    words: Sequence[str] = [type(error).__name__, str(error)]
    return ": ".join(word for word in words if word)[:160]
