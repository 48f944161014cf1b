"""Signing in at the site's identity provider, a small one on loopback."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from cxr_node.settings import Oidc
from cxr_node.worklist.web.access import CSRF_HEADER
from cxr_node.worklist.web.accounts.oidc import AT_ONCE, ProviderUnavailable
from cxr_node.worklist.web.accounts.oidc_page import COOKIE
from storage import audit, users
from tests.cxr_node.worklist.conftest import with_worklist
from tests.cxr_node.worklist.web.accounts.conftest import HTML, csrf_of, sign
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider, serve_provider

pytestmark = pytest.mark.requirement("SRS-ACC-007")


@pytest.fixture(scope="module")
def served():
    """The server of this module."""
    with serve_provider() as found:
        yield found


@pytest.fixture
def provider(served, clock):
    """The provider as it is before a test changes it; the node's clock shows the time it signs with."""
    clock.now = datetime.now(UTC).replace(microsecond=0)
    fresh = IdentityProvider(issuer=served.issuer, key=served.key)
    for name, value in vars(fresh).items():
        setattr(served, name, value)
    return served


@pytest.fixture
def oidc(provider, tmp_path):
    """The section of node.toml."""
    (tmp_path / "secret").write_text(f"{CLIENT_SECRET}\n")
    return Oidc(
        issuer=provider.issuer,
        client_id=CLIENT_ID,
        client_secret_file=str(tmp_path / "secret"),
        admin=("it-admins",),
        reader=("radiology",),
    )


@pytest.fixture
def house(make_client, settings, oidc):
    """An application with that provider."""
    return make_client(with_worklist(settings, require_token="always", oidc=oidc))


def go(client, target="/studies/1.2.3"):
    """Begin, let the provider answer; return the address it sends the browser back to."""
    begun = client.get("/login/oidc", params={"next": target}, headers=HTML)
    assert begun.status_code == 303, begun.text
    return httpx.get(begun.headers["location"]).headers["location"]


def come_back(client, address):
    """Follow the redirect of the provider."""
    parts = urlsplit(address)
    return client.get(f"{parts.path}?{parts.query}", headers=HTML)


def refused(client, address, status=403):
    """Come back, expect a page that says why and no session; return its text."""
    answer = come_back(client, address)
    assert answer.status_code == status, answer.text
    assert "cxr_node_session" not in client.cookies
    return answer.text


def test_who_is_signed_in_there_is_signed_in_here(house, provider, database, clock):
    """With the role that the provider's claim gives, on the page that was asked for."""
    form = house.get("/login?next=/studies/1.2.3").text
    assert 'href="/login/oidc?next=/studies/1.2.3"' in form
    answer = come_back(house, go(house))
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/1.2.3")
    assert COOKIE not in house.cookies
    assert house.get("/", headers=HTML).status_code == 200
    with database.read() as connection:
        user = users.find(connection, "r.roe")
        events = [(event.event, event.actor) for event in reversed(audit.events(connection))]
    assert (user.role, user.issuer, user.subject, user.password_hash) == ("reader", provider.issuer, "7b1f", "")
    assert events[:2] == [("user_added", "oidc"), ("signed_in", "r.roe")]
    assert sign(house, login="r.roe", password="").status_code == 401, "never with a password"


@pytest.mark.parametrize("how", ["public", "wants_form"])
def test_the_client_shows_its_secret_as_the_provider_wants(provider, make_client, settings, oidc, how):
    """In the form, or none at all for a public client, where PKCE alone holds."""
    setattr(provider, how, True)
    section = oidc.model_copy(update={"client_secret_file": ""}) if how == "public" else oidc
    client = make_client(with_worklist(settings, require_token="always", oidc=section))
    assert come_back(client, go(client)).status_code == 303


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": ["another-client", "third"]},
        {"aud": [CLIENT_ID, "third"], "azp": "third"},
        {"iss": "https://another.example"},
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"iat": None},
    ],
)
def test_an_id_token_of_another_sign_in_is_refused(house, provider, claims):
    """Another nonce, audience, issuer or time: each is a way to pass off a token of somebody else."""
    provider.claims |= claims
    text = refused(house, go(house))
    assert "is not accepted" in text


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_signature_that_anybody_can_make_is_refused(house, provider, algorithm):
    """Whatever the provider's own document calls supported."""
    provider.algorithm = algorithm
    assert "is not accepted" in refused(house, go(house))


def test_a_key_of_somebody_else_is_refused(house, provider):
    """The keys are the provider's, by its own address."""
    assert come_back(house, go(house)).status_code == 303
    house.cookies.clear()
    address, known = go(house), provider.key
    provider.rotate()
    forged, provider.key = provider.key, known
    signed = provider._signed
    provider._signed = lambda claims: IdentityProvider(key=forged, issuer=provider.issuer)._signed(claims)
    assert "is not accepted" in refused(house, address)
    provider._signed = signed


def test_new_keys_of_the_provider_are_fetched_and_not_at_every_try(house, provider, clock):
    """Providers change keys overnight; a forged key id must not make the node ask and ask."""
    for _ in range(3):
        assert come_back(house, go(house)).status_code == 303
    assert provider.asked == {"discovery": 1, "keys": 1}
    provider.rotate()
    clock.now += timedelta(seconds=31)
    assert come_back(house, go(house)).status_code == 303
    assert provider.asked["keys"] == 2
    clock.now += timedelta(minutes=61)
    provider.claims["exp"] = int(clock.now.timestamp()) + 60
    assert come_back(house, go(house)).status_code == 303
    assert provider.asked == {"discovery": 2, "keys": 3}


def test_an_answer_counts_once_and_in_the_browser_that_asked(house, make_client, settings, oidc, provider, clock):
    """Replayed, of another browser, of another state, or too late: no sign-in that began here."""
    address = go(house)
    question = house.cookies[COOKIE]
    other = make_client(with_worklist(settings, require_token="always", oidc=oidc))
    assert "belongs to no sign-in" in refused(other, address, 400)
    wrong = address.replace(parse_qs(urlsplit(address).query)["state"][0], "another")
    assert "belongs to no sign-in" in refused(house, wrong, 400)
    assert come_back(house, address).status_code == 303
    house.cookies.clear()
    house.cookies.set(COOKIE, question)
    assert "used before" in refused(house, address, 400)
    house.cookies.clear()
    late = go(house)
    clock.now += timedelta(minutes=11)
    assert "belongs to no sign-in" in refused(house, late, 400)
    foreign = go(house).replace("iss=http", "iss=https")
    assert "belongs to no sign-in" in refused(house, foreign, 400)


@pytest.mark.parametrize("cookie", ["", "x", "e30=", "bnVsbA==", "W1tbW1s=", "eyJzdGF0ZSI6MX0=", "é".encode("latin-1")])
def test_a_cookie_of_any_bytes_is_an_answer(house, cookie):
    """No input ends in a server error."""
    value = cookie if isinstance(cookie, bytes) else cookie.encode()
    answer = house.get("/login/oidc/callback?state=1&code=2", headers={"Cookie": COOKIE.encode() + b"=" + value})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"roles": None}, "the claim roles is missing"),
        ({"roles": ["kitchen"]}, "none of the values"),
        ({"roles": {"a": 1}}, "none of the values"),
        ({"preferred_username": None}, "preferred_username"),
        ({"preferred_username": 7}, "preferred_username"),
        ({"preferred_username": "a\u202eb"}, "preferred_username"),
    ],
)
def test_a_claim_that_is_missing_is_named(house, provider, claims, told):
    """The admin of the provider has to know which; the person that it is not their password."""
    provider.claims |= claims
    assert told in refused(house, go(house))


def test_roles_lie_where_the_provider_has_them(house, provider, make_client, settings, oidc, database):
    """Keycloak nests them; the highest one counts; a role taken away is gone at the next sign-in."""
    nested = oidc.model_copy(update={"role_claim": "realm_access.roles"})
    client = make_client(with_worklist(settings, require_token="always", oidc=nested))
    provider.claims["realm_access"] = {"roles": ["radiology", "it-admins"]}
    assert come_back(client, go(client)).status_code == 303
    assert client.get("/admin/users", headers=HTML).status_code == 200
    house.cookies.update(client.cookies)
    provider.claims["realm_access"] = {"roles": ["radiology"]}
    assert come_back(client, go(client)).status_code == 303
    assert client.get("/admin/users", headers=HTML).status_code == 403
    assert house.get("/", headers=HTML).status_code == 303, "the session of the former role has ended"
    anybody = oidc.model_copy(update={"reader": ("*",)})
    client = make_client(with_worklist(settings, require_token="always", oidc=anybody))
    provider.claims["roles"] = []
    assert come_back(client, go(client)).status_code == 303


def test_the_providers_admin_does_not_become_the_local_admin(house, provider, add_user, database):
    """Subject and issuer are who somebody is; a login can be chosen."""
    local = add_user("admin", "admin")
    provider.claims["preferred_username"] = "Admin"
    assert come_back(house, go(house)).status_code == 303
    assert house.get("/admin/users", headers=HTML).status_code == 403
    with database.read() as connection:
        assert users.get(connection, local.id).issuer == ""
        assert users.find(connection, "admin@provider").role == "reader"
    provider.claims["preferred_username"] = "renamed"
    assert come_back(house, go(house)).status_code == 303
    with database.read() as connection:
        assert [user.login for user in users.listed(connection)] == ["admin", "admin@provider"]
    provider.subject = "another"
    provider.claims["preferred_username"] = "admin"
    assert come_back(house, go(house)).status_code == 303
    with database.read() as connection:
        assert users.find(connection, "admin@provider2").subject == "another"


def test_who_is_disabled_here_stays_out(house, database):
    """The node's word is the last."""
    assert come_back(house, go(house)).status_code == 303
    with database.begin() as connection:
        users.change(connection, users.find(connection, "r.roe").id, disabled=True)
    house.cookies.clear()
    assert "disabled here" in refused(house, go(house))


def test_a_refusal_of_the_provider_is_told(house, provider):
    """Somebody pressed Cancel there."""
    provider.error = "access_denied<script>"
    text = refused(house, go(house))
    assert "did not sign you in (access_denied&lt;script&gt;)" in text


def test_without_the_provider_passwords_still_work(make_client, settings, oidc, add_user):
    """A night without the directory must not be a night without the list."""
    gone = oidc.model_copy(update={"issuer": "http://127.0.0.1:9"})
    client = make_client(with_worklist(settings, require_token="always", oidc=gone))
    answer = client.get("/login/oidc", headers=HTML)
    assert answer.status_code == 503
    assert "Signing in with a password still works" in answer.text
    assert client.get("/login/oidc/logout", headers=HTML).status_code == 503
    add_user("night", "reader")
    assert sign(client, login="night").status_code == 303


def test_a_provider_that_hangs_holds_few_threads_and_is_not_asked_at_every_click(
    make_client, settings, oidc, clock, monkeypatch
):
    """The button is open to anybody; the list must not stand still because of it."""
    gone = oidc.model_copy(update={"issuer": "http://127.0.0.1:9"})
    client = make_client(with_worklist(settings, require_token="always", oidc=gone))
    asked = []

    def hangs(address: str, _minimum: str) -> dict[str, object]:
        asked.append(address)
        raise ProviderUnavailable(address)

    monkeypatch.setattr("cxr_node.worklist.web.accounts.oidc._get", hangs)
    for _ in range(3):
        assert client.get("/login/oidc", headers=HTML).status_code == 503
    assert len(asked) == 1
    clock.now += timedelta(seconds=10)
    assert client.get("/login/oidc", headers=HTML).status_code == 503
    assert len(asked) == 2
    clock.now += timedelta(seconds=10)
    free = client.app.state.provider._free
    for _ in range(AT_ONCE):
        assert free.acquire(blocking=False)
    assert client.get("/login/oidc", headers=HTML).status_code == 503
    assert len(asked) == 2, "turned away before it waits"


def test_an_address_that_is_another_provider_is_refused(provider, make_client, settings, oidc):
    """The issuer is compared as it is written (OpenID Connect Discovery 4.3)."""
    other = oidc.model_copy(update={"issuer": provider.issuer + "/"})
    client = make_client(with_worklist(settings, require_token="always", oidc=other))
    assert client.get("/login/oidc", headers=HTML).status_code == 503


def test_signing_out_offers_the_providers_own_end(house, provider):
    """Else the next person at the workstation is one click from this account."""
    come_back(house, go(house))
    house.headers[CSRF_HEADER] = csrf_of(house)
    assert house.post("/logout").headers["location"] == "/login?out=provider"
    assert 'href="/login/oidc/logout"' in house.get("/login?out=provider").text
    address = house.get("/login/oidc/logout", headers=HTML).headers["location"]
    assert address.startswith(f"{provider.issuer}/end?client_id={CLIENT_ID}&post_logout_redirect_uri=http")


def test_the_way_back_is_the_public_address(provider, make_client, settings, oidc):
    """Behind a proxy the node does not see its own name."""
    public = with_worklist(settings, require_token="always", oidc=oidc, public_url="https://cxr.example")
    begun = make_client(public, base_url="https://cxr.example").get("/login/oidc")
    assert parse_qs(urlsplit(begun.headers["location"]).query)["redirect_uri"] == [
        "https://cxr.example/login/oidc/callback"
    ]
    assert begun.headers["set-cookie"].startswith("__Host-cxr_node_oidc=")


def test_without_a_provider_there_is_no_such_page(make_client, settings):
    """And no button."""
    client = make_client(with_worklist(settings, require_token="always"))
    assert "/login/oidc" not in client.get("/login").text
    assert client.get("/login/oidc", headers=HTML).status_code == 404
    assert client.get("/login/oidc/callback?code=1&state=1", headers=HTML).status_code == 404
    assert client.get("/login/oidc/logout", headers=HTML).headers["location"] == "/login?out=1"
