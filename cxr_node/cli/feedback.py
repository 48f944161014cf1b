"""`cxr-node feedback export`: what readers said of results, as CSV."""

import argparse
import sys
from contextlib import nullcontext

from cxr_node.settings import Settings
from cxr_node.worklist.feedback import export_csv
from cxr_node.worklist.web.feedback_api import aware
from storage import Database


def export(settings: Settings, arguments: argparse.Namespace) -> int:
    """Write every verdict since the time asked for, to the file asked for or to standard output."""
    database = Database(settings.database_url)
    try:
        database.migrate()
        path = arguments.output
        opened = path.open("w", encoding="utf-8", newline="") if path is not None else nullcontext(sys.stdout)
        with opened as out:
            for line in export_csv(database, aware(arguments.since)):
                out.write(line)
    finally:
        database.dispose()
    return 0
