"""People with passwords, hashed cheaply: what is tested here is not how slow Argon2id is."""

from collections.abc import Callable

import pytest
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from cxr_node.worklist.web.accounts import passwords
from storage import Database, audit, users
from storage.users import User
from tests.cxr_node.worklist.conftest import NOON, with_worklist

PASSWORD = "four quiet films a day"
HTML = {"Accept": "text/html"}


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash with the least that Argon2id takes."""
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", quick)
    monkeypatch.setattr(passwords, "_nobody", lambda: quick.hash("nobody"))


@pytest.fixture
def add_user(database: Database) -> Callable[..., User]:
    """Return a function that adds somebody with `PASSWORD`."""

    def add(login: str = "dr.roe", role: str = "reader", password: str = PASSWORD, **values: object) -> User:
        with database.begin() as connection:
            user = users.add(connection, login, role, now=NOON, password_hash=passwords.hashed(password))
            if values:
                users.change(connection, user.id, **values)
        return user

    return add


@pytest.fixture
def house(make_client, settings) -> TestClient:
    """An application where people sign in."""
    return make_client(with_worklist(settings, require_token="always"))


@pytest.fixture
def said(database: Database) -> Callable[[], list[tuple[str, str]]]:
    """Return a function that reads event and actor of the audit trail, oldest first."""

    def read() -> list[tuple[str, str]]:
        with database.read() as connection:
            return [(event.event, event.actor) for event in reversed(audit.events(connection))]

    return read


def sign(client: TestClient, login: str = "dr.roe", password: str = PASSWORD, **form: str):
    """Send the form of the sign-in page."""
    return client.post("/login", data={"login": login, "password": password, **form}, headers=HTML)


def csrf_of(client: TestClient, path: str = "/account") -> str:
    """Return the CSRF token that a page holds for its forms."""
    return client.get(path, headers=HTML).text.split('name="csrf-token" content="')[1].split('"')[0]
