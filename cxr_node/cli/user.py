"""`cxr-node user`: who may sign in. Whoever may run it on this machine can read the database anyway."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from cxr_node.clock import utc_now
from cxr_node.settings import Settings
from cxr_node.worklist.web.accounts import people
from storage import Database, users

ACTOR = "command line"


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Open the database of the settings with its tables up to date."""
    database = Database(settings.database_url)
    try:
        database.migrate()
        yield database
    finally:
        database.dispose()


def moment(at: datetime | None) -> str:
    """Return a time for a table."""
    return "never" if at is None else at.strftime("%Y-%m-%d %H:%M")


def add(settings: Settings, arguments: argparse.Namespace) -> int:
    """Add a user and print the one-time password."""
    with open_database(settings) as database, database.begin() as connection:
        user, password = people.add_user(
            connection, arguments.login, arguments.role, by=ACTOR, now=utc_now(), name=arguments.name
        )
    _tell_password(user.login, password)
    return 0


def show(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print every user."""
    with open_database(settings) as database, database.read() as connection:
        found = users.listed(connection)
    print(f"{'LOGIN':24} {'ROLE':8} {'STATE':21} {'LAST SIGN-IN (UTC)':19} NAME")
    for user in found:
        state = "disabled" if user.disabled else "must change password" if user.must_change else "active"
        who = " ".join(part for part in (user.display_name, f"({user.issuer})" if user.issuer else "") if part)
        print(f"{user.login:24} {user.role:8} {state:21} {moment(user.last_login_at):19} {who}".rstrip())
    return 0


def reset(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print a new one-time password."""
    with open_database(settings) as database, database.begin() as connection:
        password = people.reset(connection, arguments.login, by=ACTOR, now=utc_now())
    _tell_password(users.folded(arguments.login), password)
    return 0


def disable(settings: Settings, arguments: argparse.Namespace) -> int:
    """Keep a user out, at once."""
    with open_database(settings) as database, database.begin() as connection:
        people.disable(connection, arguments.login, by=ACTOR, now=utc_now())
    print(f"{users.folded(arguments.login)} is disabled and signed out")
    return 0


def enable(settings: Settings, arguments: argparse.Namespace) -> int:
    """Let a user in again."""
    with open_database(settings) as database, database.begin() as connection:
        people.enable(connection, arguments.login, by=ACTOR, now=utc_now())
    print(f"{users.folded(arguments.login)} is enabled")
    return 0


def role(settings: Settings, arguments: argparse.Namespace) -> int:
    """Give a user another role."""
    with open_database(settings) as database, database.begin() as connection:
        people.set_role(connection, arguments.login, arguments.role, by=ACTOR, now=utc_now())
    print(f"{users.folded(arguments.login)} is {arguments.role} now")
    return 0


def _tell_password(login: str, password: str) -> None:
    print(f"login                {login}")
    print(f"one-time password    {password}")
    print("It is shown this once and has to be changed at the first sign-in.")
