"""`cxr-node token create`: a secret for the API, printed once; the database keeps its SHA-256."""

import argparse
import secrets

from cxr_node.clock import utc_now
from cxr_node.settings import Settings
from storage import Database, audit, tokens


def create(settings: Settings, arguments: argparse.Namespace) -> int:
    """Make the token and print it."""
    secret = secrets.token_urlsafe(32)
    database = Database(settings.database_url)
    try:
        database.migrate()
        now = utc_now()
        with database.begin() as connection:
            tokens.create(connection, arguments.name, arguments.role, now=now, secret=secret)
            audit.record(
                connection,
                "token_created",
                actor="command line",
                now=now,
                detail={"name": arguments.name, "role": arguments.role},
            )
    finally:
        database.dispose()
    print(secret)
    return 0
