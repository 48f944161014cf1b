"""`cxr-node monitor`: where the charts that watch the models stand, and alarms taken back once their cause is known."""

import argparse
import json

from cxr_node.cli.destination import who
from cxr_node.cli.user import open_database
from cxr_node.clock import utc_now
from cxr_node.errors import SettingsError
from cxr_node.settings import Settings
from cxr_node.upkeep.monitor import reset
from cxr_node.worklist.web.admin.monitors import Told, told
from storage import monitoring


def show(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print every chart; exit status 1 where one has an alarm."""
    with open_database(settings) as database, database.read() as connection:
        found = told(monitoring.listed(connection))
    if not found and not arguments.json:
        print("No chart yet: upkeep takes up what was analysed every ten minutes.")
    for item in found:
        print(json.dumps(_plain(item)) if arguments.json else _line(item))
    return 1 if any(item.is_alarm for item in found) else 0


def take_back(settings: Settings, arguments: argparse.Namespace) -> int:
    """Take alarms back, and say of which charts."""
    if len(arguments.reason.strip()) < 3:
        raise SettingsError("monitor reset: expected a reason, it is kept in the audit trail")
    with open_database(settings) as database:
        done = reset(
            database,
            model=arguments.model,
            name=arguments.chart,
            learn_anew=arguments.learn_anew,
            reason=arguments.reason.strip(),
            actor=who(),
            now=utc_now(),
        )
    for item in told(done):
        print(f"{item.label}: reset{', learns anew' if arguments.learn_anew else ''}")
    if not done:
        print("No chart has that name.")
    return 0 if done else 1


def _line(item: Told) -> str:
    mark = "ALARM" if item.is_alarm else "ok" if item.level is not None else "learns"
    line = f"{mark:<7} {item.label}: {item.says}"
    if item.level is not None:
        line += f", {item.level:.2f} of the way to an alarm, {item.cases} cases"
    if "package" in item.indices:
        line += f"; index {item.indices['package']:.2f} beside the package's own images"
    return line


def _plain(item: Told) -> dict[str, object]:
    return {
        "model": item.monitor.model,
        "version": item.monitor.model_version,
        "finding": item.monitor.finding,
        "chart": item.monitor.name,
        "alarm": item.monitor.alarm,
        "alarm_at": item.monitor.alarm_at.isoformat() if item.monitor.alarm_at else None,
        "level": item.level,
        "learning": item.is_learning,
        "indices": dict(item.indices),
    }
