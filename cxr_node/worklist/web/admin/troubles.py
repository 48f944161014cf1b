"""What of the node's condition needs an eye: one sentence each, with the page where something can be done."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cxr_node.worklist.web import present
from cxr_node.worklist.web.admin import monitors
from cxr_node.worklist.web.admin.condition import MISSING, STARTING, Condition
from cxr_node.worklist.web.admin.trail import VERIFIED_TOO_LONG_AGO, is_held_up, is_unsealed

WAITS_TOO_LONG = timedelta(seconds=60)
STUCK_AFTER = timedelta(minutes=10)  # a result that is due, in the lane of a destination that takes what is sent
LANE = "deliver:"
SLO_S = 1.0  # from the last image to the priority, 95 of 100 studies
SLO_FROM = 20  # studies; fewer say nothing of 95 in 100
CERTIFICATE_DAYS = 30
CLOCK_S = 60.0  # less is what a time service corrects, or a virtual machine that was moved
DISK_DAYS = 7
_NAMED = 3  # silent senders; more are counted
_WITHOUT = {
    "receive": "no image can come in",
    "analyze": "studies wait without a priority",
    "deliver": "results do not leave the node",
    "worklist": "nobody can read the list",
    "orders": "orders of the RIS are not taken up",
    "upkeep": "nothing is cleared up, and no alarm is raised",
}


@dataclass(frozen=True)
class Trouble:
    """One thing. Urgent: patients' images or results are held up now, or soon, or somebody tampered with the node."""

    sentence: str
    href: str
    is_urgent: bool = False


def summary(troubles: tuple[Trouble, ...]) -> str:
    """Return the one sentence that an admin reads in passing."""
    urgent = sum(trouble.is_urgent for trouble in troubles)
    if urgent:
        return "One thing is urgent." if urgent == 1 else f"{urgent} things are urgent."
    if troubles:
        return "One thing needs an eye." if len(troubles) == 1 else f"{len(troubles)} things need an eye."
    return "All is well."


def troubles_of(condition: Condition) -> tuple[Trouble, ...]:
    """Return what needs an eye, the urgent first."""
    found = [
        *_stages(condition),
        *_work(condition),
        *_room(condition),
        *_backup(condition),
        *_trail(condition),
        *_models(condition),
        *_monitors(condition),
        *_destinations(condition),
        *_senders(condition),
        *_certificates(condition),
        *_speed(condition),
        *_clock(condition),
    ]
    return tuple(sorted(found, key=lambda trouble: not trouble.is_urgent))


def _stages(condition: Condition) -> Iterator[Trouble]:
    for stage in condition.stages:
        if stage.state == MISSING:
            since = "" if stage.seen_at is None else f" for {_span(condition.at - stage.seen_at)}"
            yield Trouble(f"{stage.name} gives no sign of life{since}: {_WITHOUT[stage.name]}.", "/admin#stages", True)
        elif stage.state == STARTING:
            yield Trouble(f"{stage.name} is starting: {_WITHOUT[stage.name]} until then.", "/admin#stages")


def _work(condition: Condition) -> Iterator[Trouble]:
    for queue in condition.queues:
        waits = condition.at - queue.oldest_due_at if queue.oldest_due_at is not None else timedelta()
        if queue.kind == "analyze" and waits > WAITS_TOO_LONG:
            yield Trouble(
                f"{_number(queue.due, 'study waits', 'studies wait')} for analysis, the first for {_span(waits)}.",
                "/admin#queue",
                True,
            )
        name = queue.kind.removeprefix(LANE)
        is_held = name == queue.kind or name in (*condition.paused, *condition.resting)  # told of elsewhere
        if waits > STUCK_AFTER and not is_held:
            results = _number(queue.due, "result waits", "results wait")
            sentence = f"{results} for {present.shown(name)}, the first for {_span(waits)}."
            yield Trouble(sentence, "/admin/destinations")
    if condition.failed_jobs:
        yield Trouble(f"{_number(condition.failed_jobs, 'job was', 'jobs were')} given up.", "/admin/jobs")


def _room(condition: Condition) -> Iterator[Trouble]:
    disk = condition.disk
    if disk is None:
        yield Trouble("The folder of the instances cannot be looked at.", "/admin#room", True)
    elif disk.free < disk.minimum:
        yield Trouble(
            f"No image is taken: {disk.free / 1e9:.1f} GB are free, below min_free_gb = {disk.minimum / 1e9:g}.",
            "/admin/retention",
            True,
        )
    elif disk.days_left is not None and disk.days_left < DISK_DAYS:
        yield Trouble(
            f"The disk is full in {disk.days_left:.1f} days at the rate of today, if nothing is deleted.",
            "/admin/retention",
        )


def _backup(condition: Condition) -> Iterator[Trouble]:
    backup = condition.backup
    if backup.every is None:
        return  # how the site saves the node by other means, the node does not know; the page says so
    last = "there is none" if backup.made_at is None else f"the last is {_span(condition.at - backup.made_at)} old"
    if backup.failed_at is not None:
        yield Trouble(f"The last try to make a backup failed, {last}: {backup.reason}.", "/admin#room")
    elif backup.made_at is None or condition.at - backup.made_at > 2 * backup.every:
        yield Trouble(f"No backup was made when it was due: {last}.", "/admin#room")


def _trail(condition: Condition) -> Iterator[Trouble]:
    found, page = condition.trail, "/admin/audit"
    if found.broken:
        yield Trouble(f"The audit trail is not what was sealed: {found.breaks[0]}.", page, True)
    if is_unsealed(found, condition.at) and found.unsealed_since is not None:
        yield Trouble(f"The audit trail has not been sealed for {_span(condition.at - found.unsealed_since)}.", page)
    if found.verified_at is not None and condition.at - found.verified_at > VERIFIED_TOO_LONG_AGO:
        yield Trouble(f"The audit trail was verified last {_span(condition.at - found.verified_at)} ago.", page)
    if is_held_up(found, condition.at) and found.waiting_since is not None:
        why = f": {found.trouble}" if found.trouble else ""
        entries = _number(found.waiting, "entry", "entries")
        yield Trouble(
            f"The audit repository has not taken {entries}, the first for "
            f"{_span(condition.at - found.waiting_since)}{why}.",
            page,
        )


def _models(condition: Condition) -> Iterator[Trouble]:
    for model in condition.models:
        if model.self_test:
            yield Trouble(f"The self-test of {model.name} {model.version} failed.", "/admin/models", True)
        if model.trouble:
            yield Trouble(f"{model.name} {model.version} runs slower than meant: {model.trouble}.", "/admin/models")


def _monitors(condition: Condition) -> Iterator[Trouble]:
    raised = [item for item in monitors.told(condition.monitors) if item.is_alarm]
    for item in raised[:_NAMED]:
        yield Trouble(f"{item.sentence}.", "/admin/charts#h-monitoring")
    if len(raised) > _NAMED:
        more = _number(len(raised) - _NAMED, "more chart has", "more charts have")
        yield Trouble(f"{more} an alarm.", "/admin/charts#h-monitoring")


def _destinations(condition: Condition) -> Iterator[Trouble]:
    for name in condition.resting:
        yield Trouble(f"{name} does not take results: it is left alone after failures.", "/admin/destinations", True)
    for name in condition.paused:
        yield Trouble(f"{name} is paused: its results wait.", "/admin/destinations")
    if condition.failed_deliveries:
        number = _number(condition.failed_deliveries, "delivery was", "deliveries were")
        yield Trouble(f"{number} given up.", "/admin/destinations")


def _senders(condition: Condition) -> Iterator[Trouble]:
    silent = [item for item in condition.silences if item.muted_at is None]
    for item in silent[:_NAMED]:
        sender = present.shown(" ".join(part for part in item.sender if part))
        yield Trouble(f"{sender} has sent nothing for {_span(condition.at - item.last_at)}.", "/admin/senders#silent")
    if len(silent) > _NAMED:
        more = _number(len(silent) - _NAMED, "more sender is", "more senders are")
        yield Trouble(f"{more} silent.", "/admin/senders#silent")
    if condition.unknown_callers:
        number = _number(condition.unknown_callers, "unknown caller was", "unknown callers were")
        yield Trouble(f"{number} turned away in the last 24 hours.", "/admin/senders#rejected")


def _certificates(condition: Condition) -> Iterator[Trouble]:
    for item in condition.certificates:
        if item.expires_at is None:
            yield Trouble(f"The certificate of {item.key} {item.problem}.", "/admin#certificates", True)
        elif item.expires_at <= condition.at:
            yield Trouble(f"The certificate of {item.key} has expired.", "/admin#certificates", True)
        elif days_left(item.expires_at, condition.at) < CERTIFICATE_DAYS:
            days = _number(days_left(item.expires_at, condition.at), "day", "days")
            yield Trouble(f"The certificate of {item.key} expires in {days}.", "/admin#certificates")


def _speed(condition: Condition) -> Iterator[Trouble]:
    hour = condition.hour
    if hour.studies >= SLO_FROM and hour.p95_s is not None and hour.p95_s > SLO_S:
        yield Trouble(
            f"5 of 100 studies of the last hour waited {hour.p95_s:.1f} s or more for their priority; "
            f"the aim is {SLO_S:g} s.",
            "/admin#speed",
        )


def _clock(condition: Condition) -> Iterator[Trouble]:
    found = condition.clock_set
    if found is None or abs(found.ahead_s) < CLOCK_S:
        return
    by, when = _span(timedelta(seconds=abs(found.ahead_s))), " while the node was down" if found.while_down else ""
    way, so = ("back", "times of before lie ahead of it") if found.ahead_s < 0 else ("ahead", "it counts as waited")
    yield Trouble(
        f"The clock was set {way} by {by}{when}: {so}. Look at the time service.",
        "/admin/audit?event=clock_set",
    )


def days_left(expires_at: datetime, now: datetime) -> int:
    """Return whole days until then."""
    return max(0, (expires_at - now).days)


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _span(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    return f"{seconds} s" if seconds < 120 else present.duration(time)
