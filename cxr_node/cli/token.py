"""`cxr-node token`: secrets for programs, printed once; the database keeps their SHA-256."""

import argparse

from cxr_node.cli.user import ACTOR, moment, open_database
from cxr_node.clock import utc_now
from cxr_node.settings import Settings
from cxr_node.worklist.web.accounts import people
from storage import tokens


def create(settings: Settings, arguments: argparse.Namespace) -> int:
    """Make the token and print its secret, alone on standard output."""
    with open_database(settings) as database, database.begin() as connection:
        _, secret = people.create_token(
            connection, arguments.name, arguments.role, by=ACTOR, now=utc_now(), days=arguments.days
        )
    print(secret)
    return 0


def show(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print every token with its last use and its end."""
    now = utc_now()
    with open_database(settings) as database, database.read() as connection:
        found = tokens.listed(connection)
    print(f"{'NAME':24} {'ROLE':8} {'LAST USED (UTC)':17} {'EXPIRES (UTC)':17} MADE BY")
    for token in found:
        ends = "never" if token.expires_at is None else moment(token.expires_at)
        over = "  expired" if token.expires_at is not None and token.expires_at <= now else ""
        print(f"{token.name:24} {token.role:8} {moment(token.last_used_at):17} {ends:17} {token.created_by}{over}")
    return 0


def revoke(settings: Settings, arguments: argparse.Namespace) -> int:
    """Take a token back, at once."""
    with open_database(settings) as database, database.begin() as connection:
        people.revoke_token(connection, arguments.name, by=ACTOR, now=utc_now())
    print(f"{arguments.name} is revoked")
    return 0
