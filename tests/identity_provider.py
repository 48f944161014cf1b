"""A small OpenID Connect provider on loopback: whoever asks is signed in at once, as the test says who that is."""

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID = "cxr-node"
CLIENT_SECRET = "secret-of-the-node"


@dataclass
class IdentityProvider:
    """What it says can be changed by a test; `asked` counts the requests of each address."""

    issuer: str = ""
    subject: str = "7b1f"
    claims: dict[str, Any] = field(default_factory=lambda: {"preferred_username": "r.roe", "roles": ["radiology"]})
    algorithm: str = "RS256"
    public: bool = False  # a client without a secret
    wants_form: bool = False  # the secret in the form, not in the header
    error: str = ""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "first"}))
    asked: dict[str, int] = field(default_factory=dict)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def rotate(self) -> None:
        """Sign with another key from now on."""
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4)})

    def application(self) -> Starlette:
        """Return the provider as an application."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/keys", self._keys),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/end", self._end),
            ]
        )

    def _count(self, name: str) -> None:
        self.asked[name] = self.asked.get(name, 0) + 1

    async def _discovery(self, _: Request) -> Response:
        self._count("discovery")
        methods = ["client_secret_post"] if self.wants_form else ["client_secret_basic", "client_secret_post"]
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "end_session_endpoint": f"{self.issuer}/end",
                "token_endpoint_auth_methods_supported": methods,
                "id_token_signing_alg_values_supported": ["none", "HS256", "RS256"],
            }
        )

    async def _keys(self, _: Request) -> Response:
        self._count("keys")
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if asked.get("client_id") != CLIENT_ID or asked.get("code_challenge_method") != "S256":
            return PlainTextResponse("unknown client, or no PKCE", 400)
        answer = {"state": asked["state"], "iss": self.issuer}
        if self.error:
            answer["error"] = self.error
        else:
            answer["code"] = secrets.token_urlsafe(8)
            self._codes[answer["code"]] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        form = dict(await request.form())
        asked = self._codes.pop(str(form.get("code")), None)
        if not self._knows_client(request, form):
            return JSONResponse({"error": "invalid_client"}, 401)
        challenge = _base64(hashlib.sha256(str(form.get("code_verifier")).encode()).digest())
        if asked is None or challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": self.subject,
            "aud": CLIENT_ID,
            "exp": now + 60,
            "iat": now,
            "nonce": asked["nonce"],
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": self._signed(claims)})

    def _knows_client(self, request: Request, form: dict[str, Any]) -> bool:
        if self.public:
            return form.get("client_id") == CLIENT_ID and "client_secret" not in form
        if self.wants_form:
            return (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        return request.headers.get("authorization") == f"Basic {expected}"

    def _signed(self, claims: dict[str, Any]) -> str:
        header = {"alg": self.algorithm, "kid": self.key.kid}
        if self.algorithm not in ("none", "HS256"):
            return jwt.encode(header, claims, self.key, [self.algorithm])
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        # With the public key as the secret, as a library may be made to check it; or with nothing at all.
        secret = self.key.as_pem(private=False)
        return (
            f"{signed}.{_base64(hmac.digest(secret, signed.encode(), 'sha256')) if self.algorithm == 'HS256' else ''}"
        )

    async def _end(self, request: Request) -> Response:
        return RedirectResponse(request.query_params["post_logout_redirect_uri"], 302)


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@contextmanager
def serve_provider() -> Iterator[IdentityProvider]:
    """Serve one on a free port of loopback."""
    provider = IdentityProvider()
    server = uvicorn.Server(
        uvicorn.Config(provider.application(), port=0, log_config=None, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    provider.issuer = f"http://127.0.0.1:{port}"
    yield provider
    server.should_exit = True
    thread.join(10)
