"""The command line `cxr-node`. Each command lives in a module of its own and is imported when it is asked for."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cxr_node import __version__
from cxr_node.cli import beforehand
from cxr_node.errors import CxrNodeError, SettingsError
from cxr_node.settings import Settings, load_settings
from storage.errors import StorageError

STAGES = ("receive", "analyze", "deliver", "worklist", "orders", "upkeep")
ROLES = ("reader", "admin", "auditor", "service")
PEOPLE_ROLES = ("reader", "admin", "auditor")

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `handler` of a parsed command is ``module:function``."""
    parser = argparse.ArgumentParser(
        prog="cxr-node",
        description="DICOM node for chest X-ray triage. Research prototype, not cleared for clinical use.",
    )
    parser.add_argument("--version", action="version", version=f"cxr-node {__version__}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="node.toml; without it ./node.toml, else the defaults"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run every stage under one supervisor")
    serve.set_defaults(handler="first:serve")
    for stage in STAGES:
        command = commands.add_parser(stage, help=f"run the stage {stage} alone")
        command.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
        command.set_defaults(handler="stage:run_stage", stage=stage)

    demo = commands.add_parser("demo", help="serve, send a drawn example study, show what comes back, stay up")
    demo.add_argument("--exit", action="store_true", help="stop when the result is shown")
    demo.set_defaults(handler="demo:demo")

    send = commands.add_parser("send", help="send DICOM files by C-STORE")
    send.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    send.add_argument("--to", required=True, metavar="AE@HOST:PORT", help="called AE title, address and port")
    send.add_argument("--calling", default="CXR_SEND", metavar="AE", help="calling AE title")
    send.set_defaults(handler="send:send")

    predict = commands.add_parser("predict", help="run the models on files, without node or storage")
    predict.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="DICOM, PNG or JPEG files, or folders")
    predict.add_argument(
        "--model", metavar="NAME", help="this package only; needed for PNG and JPEG, which carry no age"
    )
    predict.add_argument("--profile", choices=("triage", "research"), help="instead of the profile in node.toml")
    predict.add_argument("--json", action="store_true", help="one JSON object a line for each file")
    predict.set_defaults(handler="predict:predict")

    doctor = commands.add_parser("doctor", help="check disk, database, models and peers")
    doctor.add_argument("--round-trip", action="store_true", help="send a drawn study through the running node as well")
    doctor.set_defaults(handler="doctor:doctor")

    alive = commands.add_parser("alive", help="whether a stage on this host gives signs of life")
    alive.add_argument("stage", choices=STAGES)
    alive.add_argument("--within", type=float, default=60.0, metavar="S", help="seconds since the last sign")
    alive.set_defaults(handler="alive:alive")

    backup = commands.add_parser("backup", help="save the node while it runs; `backup verify DIR` reads a backup whole")
    backup.add_argument(
        "words", nargs="*", metavar="DIR", help="folder of backups; upkeep.backup_dir where none is named"
    )
    backup.add_argument("--with-bytes", action="store_true", help="also copy the bytes that lie in an object store")
    backup.set_defaults(handler="backup:backup")
    restore = commands.add_parser("restore", help="put a backup back into an empty place")
    restore.add_argument("folder", type=Path, metavar="DIR", help="a backup, or a folder of backups: the newest")
    restore.set_defaults(handler="backup:put_back")

    keys = commands.add_parser("keys", help="keys that instances are encrypted with at rest")
    keys_commands = keys.add_subparsers(dest="keys_command", required=True, metavar="COMMAND")
    keys_commands.add_parser("new", help="add a key to the key file, and make the file").set_defaults(
        handler="keys:new"
    )
    keys_commands.add_parser("list", help="every key with the number of files").set_defaults(handler="keys:show")
    rotate = keys_commands.add_parser("rotate", help="seal with the newest key from now on, and wrap all files anew")
    rotate.add_argument("--to", metavar="ID", help="another key than the newest")
    rotate.set_defaults(handler="keys:rotate")
    gone = keys_commands.add_parser("remove", help="take a key away that no file and no backup needs any more")
    gone.add_argument("key_id", metavar="ID", help="as `keys list` shows it")
    gone.set_defaults(handler="keys:remove")

    export = commands.add_parser("export", help="write studies without identity, for research (PS3.15 Annex E)")
    chosen = export.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--study", action="append", default=[], metavar="UID", help="may be repeated")
    chosen.add_argument(
        "--since", type=datetime.fromisoformat, metavar="TIME", help="studies received since; UTC without an offset"
    )
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="an empty folder, or a new one")
    export.add_argument("--keep-dates-shifted", action="store_true", help="keep dates, moved by days that nobody knows")
    export.add_argument("--allow-burned-in", action="store_true", help="also images that may show text in their pixels")
    export.add_argument(
        "--key", type=Path, metavar="FILE", help="key of the pseudonyms; data_dir/export.key, made at first use"
    )
    export.set_defaults(handler="export:export")

    config = commands.add_parser("config", help="look at the configuration")
    config_commands = config.add_subparsers(dest="config_command", required=True, metavar="COMMAND")
    check = config_commands.add_parser("check", help="read node.toml and say what is wrong with it")
    check.set_defaults(handler="config:check")

    commands.add_parser("conformance", help="print the DICOM Conformance Statement of this configuration").set_defaults(
        handler="conformance:conformance"
    )

    destination = commands.add_parser("destination", help="where results go: look, test, pause, send again")
    destination_commands = destination.add_subparsers(dest="destination_command", required=True, metavar="COMMAND")
    destination_commands.add_parser("list", help="each destination with its state").set_defaults(
        handler="destination:show"
    )
    for word, told, function in (
        ("test", "say what would keep results from getting there", "test"),
        ("pause", "send nothing there until it is resumed", "pause"),
        ("resume", "go on sending, at once", "resume"),
        ("resend", "send again what failed, or one delivery", "resend"),
    ):
        command = destination_commands.add_parser(word, help=told)
        command.add_argument("name", metavar="NAME", help="name of the destination in node.toml")
        command.set_defaults(handler=f"destination:{function}")
        if word == "resend":
            which = command.add_mutually_exclusive_group(required=True)
            which.add_argument("--failed", action="store_true", help="everything that was given up there")
            which.add_argument("--delivery", type=int, metavar="ID", help="one delivery, also one that arrived")

    user = commands.add_parser("user", help="who may sign in: add, look, reset a password, disable")
    user_commands = user.add_subparsers(dest="user_command", required=True, metavar="COMMAND")
    user_commands.add_parser("list", help="every user with state and last sign-in").set_defaults(handler="user:show")
    for word, told in (
        ("add", "add a user and print the one-time password"),
        ("reset", "print a new one-time password, also for the first admin"),
        ("disable", "keep a user out, at once"),
        ("enable", "let a user in again"),
        ("role", "give a user another role"),
    ):
        command = user_commands.add_parser(word, help=told)
        command.add_argument("login", metavar="LOGIN")
        command.set_defaults(handler=f"user:{word}")
        if word == "add":
            command.add_argument("--role", required=True, choices=PEOPLE_ROLES)
            command.add_argument("--name", default="", help="as colleagues know the user")
        elif word == "role":
            command.add_argument("role", metavar="ROLE", choices=PEOPLE_ROLES)

    token = commands.add_parser("token", help="tokens of programs for the API")
    token_commands = token.add_subparsers(dest="token_command", required=True, metavar="COMMAND")
    create = token_commands.add_parser("create", help="make a token and print it once")
    create.add_argument("name", metavar="NAME", help="who or what will use it")
    create.add_argument("--role", required=True, choices=ROLES)
    create.add_argument("--days", type=int, metavar="N", help="it expires after so many days; without, never")
    create.set_defaults(handler="token:create")
    token_commands.add_parser("list", help="every token with last use and end").set_defaults(handler="token:show")
    revoke = token_commands.add_parser("revoke", help="take a token back, at once")
    revoke.add_argument("name", metavar="NAME")
    revoke.set_defaults(handler="token:revoke")

    audit = commands.add_parser("audit", help="the audit trail: verify it, print its end, cut off its beginning")
    audit_commands = audit.add_subparsers(dest="audit_command", required=True, metavar="COMMAND")
    verify = audit_commands.add_parser("verify", help="say whether it is what was sealed, and where it is not")
    verify.add_argument("--head", default="", metavar="DIGEST", help="a digest of `audit head` that was kept elsewhere")
    verify.set_defaults(handler="audit:verify")
    audit_commands.add_parser("head", help="print the digest of its end").set_defaults(handler="audit:head")
    cut = audit_commands.add_parser("cut", help="move what is old to a file")
    cut.add_argument(
        "--before", required=True, type=datetime.fromisoformat, metavar="DAY", help="what was sealed before"
    )
    cut.add_argument("--to", required=True, type=Path, metavar="FILE", help="a new file, one JSON object a line")
    cut.set_defaults(handler="audit:cut")

    feedback = commands.add_parser("feedback", help="what readers said of results")
    feedback_commands = feedback.add_subparsers(dest="feedback_command", required=True, metavar="COMMAND")
    export = feedback_commands.add_parser("export", help="write it as CSV")
    export.add_argument(
        "--since", type=datetime.fromisoformat, metavar="TIME", help="ISO 8601, e.g. 2026-03-01; UTC without an offset"
    )
    export.add_argument("--output", type=Path, metavar="FILE", help="instead of standard output")
    export.set_defaults(handler="feedback:export")

    times = commands.add_parser("times", help="how long it took from the last image to the priority and to the result")
    _period(times)
    times.add_argument("--json", action="store_true", help="one JSON object")
    times.set_defaults(handler="times:times")

    _triage_sim(commands)

    monitor = commands.add_parser("monitor", help="what watches the models: where its charts stand, take alarms back")
    monitor.add_argument("--json", action="store_true", help="one JSON object a line")
    monitor.set_defaults(handler="monitor:show")
    monitor_commands = monitor.add_subparsers(dest="monitor_command", metavar="COMMAND")
    taken_back = monitor_commands.add_parser("reset", help="take alarms back, once their cause is known")
    taken_back.add_argument("--model", default="", metavar="NAME", help="only charts of this model")
    taken_back.add_argument("--chart", default="", metavar="NAME", help="only charts of this name")
    taken_back.add_argument("--learn-anew", action="store_true", help="also learn anew what is usual here")
    taken_back.add_argument("--reason", required=True, metavar="TEXT", help="kept in the audit trail")
    taken_back.set_defaults(handler="monitor:take_back")

    calibrate = commands.add_parser(
        "calibrate", help="hold a model against labels of this site; proposes, and changes nothing"
    )
    calibrate.add_argument(
        "labels", type=Path, metavar="LABELS.csv", help="columns uid (study or SOP Instance UID) and label (1 or 0)"
    )
    calibrate.add_argument("--model", metavar="NAME", help="an active or shadow package; where several run")
    calibrate.add_argument("--finding", metavar="NAME", help="its first finding where none is named")
    calibrate.add_argument("--sensitivity", type=float, default=0.9, metavar="S", help="to be reached; default 0.9")
    calibrate.add_argument(
        "--prevalence", type=float, metavar="P", help="of the site, for predictive values; without: that of the labels"
    )
    calibrate.add_argument("--json", action="store_true", help="one JSON object")
    calibrate.set_defaults(handler="calibrate:calibrate")

    backfill = commands.add_parser("backfill", help="fetch studies of the past from a [[source]] and analyse them")
    backfill.add_argument("--from", metavar="NAME", help="[[source]] of node.toml")
    backfill.add_argument("--dates", metavar="FROM-TO", help="study dates, YYYYMMDD or YYYYMMDD-YYYYMMDD")
    backfill.add_argument("--modality", action="append", metavar="CODE", help="with this modality; may be repeated")
    backfill.add_argument("--patient-id", default="", metavar="ID", help="of this patient")
    backfill.add_argument("--limit", type=int, metavar="N", help="no more studies than this")
    backfill.add_argument("--rate", type=float, default=30.0, metavar="N", help="most studies a minute; 0: no limit")
    backfill.add_argument("--dry-run", action="store_true", help="show what would be fetched")
    backfill.add_argument("--resume", type=int, metavar="ID", help="go on with a run, what failed included")
    backfill.add_argument("--list", action="store_true", help="show the runs")
    backfill.add_argument("--json", action="store_true", help="one JSON object a line")
    backfill.set_defaults(handler="backfill:backfill")
    return parser


def _period(command: argparse.ArgumentParser) -> None:
    for name, told in (("--since", "studies whose last image came since"), ("--until", "and before; now")):
        command.add_argument(
            name, type=datetime.fromisoformat, metavar="TIME", help=f"{told}, ISO 8601; UTC without an offset"
        )


def _triage_sim(commands: Any) -> None:
    sim = commands.add_parser("triage-sim", help="what flagging does to waiting times: formula and simulation")
    sim.add_argument("--model", metavar="NAME", help="package whose measured sensitivity and specificity are taken")
    sim.add_argument("--set", default="", metavar="NAME", help="its test set; the one of its criteria")
    sim.add_argument("--finding", default="", metavar="NAME", help="its finding; the first")
    sim.add_argument("--sensitivity", type=float, metavar="P", help="instead of a model's")
    sim.add_argument("--specificity", type=float, metavar="P", help="instead of a model's")
    sim.add_argument("--prevalence", type=float, default=0.1, metavar="P", help="share of diseased studies; 0.1")
    sim.add_argument("--load", type=float, default=0.8, metavar="P", help="share of time that readers are busy; 0.8")
    sim.add_argument("--read-min", type=float, default=5.0, metavar="MIN", help="mean reading time; 5")
    sim.add_argument(
        "--service",
        choices=("exponential", "lognormal", "log"),
        default="exponential",
        help="reading times; log: as readers of this node took since --since",
    )
    sim.add_argument("--cv", type=float, default=1.0, metavar="X", help="of lognormal: deviation over mean; 1")
    sim.add_argument("--readers", default="1", metavar="N|SHIFTS", help="2, or 08-18:3,18-08:1")
    sim.add_argument(
        "--arrivals",
        default="poisson",
        metavar="poisson|day|log|FILE",
        help="steady, a synthetic day, those of this node since --since, or a CSV with a column received_at",
    )
    _period(sim)
    sim.add_argument("--studies", type=int, default=10_000, metavar="N", help="in a replication; 10000")
    sim.add_argument("--replications", type=int, default=20, metavar="N", help="20; at least 5")
    sim.add_argument("--discipline", choices=("non-preemptive", "preemptive"), default="non-preemptive")
    sim.add_argument("--max-wait", type=float, metavar="MIN", help="0 for none; worklist.max_wait_min of node.toml")
    sim.add_argument(
        "--reading", choices=("in-turn", "top"), default="in-turn", help="down the list, or always its first line"
    )
    sim.add_argument("--limit", type=float, default=60.0, metavar="MIN", help="count waits above; 60")
    sim.add_argument("--seed", type=int, default=1, metavar="N")
    sim.add_argument("--json", action="store_true", help="one JSON object")
    sim.set_defaults(handler="triage_sim:triage_sim")


def find_config(given: Path | None) -> Path | None:
    """Return the file named on the command line, else ./node.toml where there is one."""
    if given is not None:
        return given
    here = Path("node.toml")
    return here if here.is_file() else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 wrong usage or configuration."""
    arguments = build_parser().parse_args(argv)
    arguments.config = find_config(arguments.config)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.umask(0o077)  # what the node makes holds patients: database, images, logs, backups
    try:
        settings: Settings = load_settings(arguments.config)
        beforehand.check(settings, arguments)
        module, _, function = arguments.handler.partition(":")
        handler = getattr(importlib.import_module(f"cxr_node.cli.{module}"), function)
        return int(handler(settings, arguments) or EXIT_OK)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except (CxrNodeError, StorageError) as error:
        print(f"cxr-node {arguments.command}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILED
    except Exception as error:  # the database's only; its library is loaded by the commands that need it
        if not type(error).__module__.startswith("sqlalchemy."):
            raise
        told = type(getattr(error, "orig", None) or error).__name__  # its message may quote what was to be written
        print(f"cxr-node {arguments.command}: the database does not answer, or refuses: {told}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED
