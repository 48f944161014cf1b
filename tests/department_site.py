"""What stands around the studies of a department: people, senders, destinations, jobs, models, tried images."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from storage import (
    audit,
    destination_states,
    drops,
    heartbeats,
    jobs,
    model_changes,
    site_tables,
    tokens,
    users,
)
from storage import senders as heard

if TYPE_CHECKING:
    from tests.department import Department

MODELS = ("pneumonia-adult", "pneumonia-paediatric")
TRIED = "t" * 22  # the key of what the admin tried


def people(department: "Department") -> None:
    """A user of each role, and a token."""
    now = department.clock.now - timedelta(days=20)
    names = {"admin": "Ada Admin", "reader": "Rita Reader", "auditor": "Otto Auditor"}
    with department.database.begin() as connection:
        for role, name in names.items():
            users.add(connection, f"{role}.person", role, now=now, display_name=department.told(name))
        tokens.create(connection, department.told("ris"), "service", now=now, secret=department.token)


def senders(department: "Department") -> None:
    """Associations, callers that were turned away or let in, and a room that fell silent."""
    now, told = department.clock.now, department.told
    with department.database.begin() as connection:
        for number, minutes in enumerate((4, 11, 133, 41, 26, 22, 17, 1, 75, 58)):  # those of CASES
            closed = now - timedelta(minutes=minutes) + timedelta(seconds=0.2)
            connection.execute(
                site_tables.associations.insert().values(
                    association_id=told(f"assoc-{number}"),
                    calling_ae_title=told(("CR_ROOM_1", "DX_WARD")[number % 2]),
                    called_ae_title=told("CXR_NODE"),
                    peer_address=told(f"10.0.0.{11 + number % 2}"),
                    opened_at=closed - timedelta(seconds=1.7),
                    closed_at=closed,
                    instances=number % 4 + 1,
                    refused=int(number == 5),
                    bytes=2_100_000 * (number % 4 + 1),
                    outcome=told("lost" if number == 5 else "released"),
                    reason=told("the connection was reset") if number == 5 or department.hostile else "",
                )
            )
        for title in ("CT_SCANNER", "CR_ROOM_7"):
            connection.execute(
                site_tables.rejected_callers.insert().values(
                    calling_ae_title=f"{title}{department.hostile}",
                    called_ae_title=told("CXR_NODE"),
                    peer_address=told("10.0.0.77"),
                    reason=told("calling_ae_title"),
                    attempts=14,
                    first_at=now - timedelta(hours=3),
                    last_at=now - timedelta(minutes=2),
                )
            )
        connection.execute(
            site_tables.allowed_callers.insert().values(
                ae_title=told("DX_EAST"), host=told("10.0.0.31"), created_by=told("admin.person"), created_at=now
            )
        )
        heard.note_silence(connection, told("CR_ROOM_2"), told("CR"), last_at=now - timedelta(hours=9), now=now)


def destinations(department: "Department") -> None:
    """One that rests after failures, one that is paused, one that is well."""
    now, told = department.clock.now, department.told
    with department.database.begin() as connection:
        destination_states.note_success(connection, "archive", now=now - timedelta(minutes=1))
        destination_states.note_success(connection, "pacs", now=now - timedelta(hours=1))
        error = told("10.0.0.5:104 refuses the connection: nothing listens on that port")
        resting = now + timedelta(minutes=2)
        destination_states.note_failure(
            connection, "pacs", error=error, failures=5, resting_until=resting, now=now - timedelta(minutes=1)
        )
        destination_states.note_test(connection, "pacs", error, now=now - timedelta(minutes=30))
        destination_states.pause(connection, "ehr", by=told("admin.person"), now=now - timedelta(hours=2))


def operations(department: "Department") -> None:
    """Signs of life, failed jobs, decisions about models, and what the audit trail tells of them."""
    now, told = department.clock.now, department.told
    with department.database.begin() as connection:
        for stage in ("receive", "analyze", "deliver", "worklist", "orders", "upkeep"):
            detail = _standing(department) if stage == "analyze" else {}
            began, seen = now - timedelta(days=3), now - timedelta(seconds=2)
            heartbeats.beat(connection, stage, told(f"{stage}:1"), started_at=began, now=seen, detail=detail)
        for number, event in enumerate(("signed_in", "study_read", "destination_paused", "sign_in_failed")):
            audit.record(
                connection,
                event,
                actor=told("reader.person"),
                now=now - timedelta(minutes=number),
                study_instance_uid=department.uids[0] if event == "study_read" else "",
                detail={"note": told("by page")},
            )
        jobs.schedule(connection, "deliver:pacs", "1", run_at=now, now=now)
        (claimed,) = jobs.claim(connection, ["deliver:pacs"], owner="deliver:1", now=now)
        assert jobs.fail(connection, claimed, reason=told("the PACS refused: out of resources (A700)"), now=now)
        running = {name: {"version": "0.2.0", "digest": ""} for name in MODELS}
        detail = {"active": running, "shadow": {}}
        audit.record(connection, "models_loaded", actor="analyze", now=now - timedelta(days=3), detail=detail)
        model_changes.add(
            connection,
            "pneumonia-adult",
            model_changes.FILE,
            reason=told("validated on our own cases by the physicist"),
            changed_by=told("admin.person"),
            now=now - timedelta(days=2),
        )


def _standing(department: "Department") -> dict[str, Any]:
    told = department.told
    models = [
        {"name": told(name), "version": told("1.0.0"), "digest": "", "device": told("CPU"), "role": "active"}
        for name in MODELS
    ]
    return {"state": "ready", "models": models, "gpus": []}


def tried_images(department: "Department") -> None:
    """What the admin tried on the drop page, under the key TRIED."""
    now, told = department.clock.now, department.told
    score = {"finding": told("pneumonia"), "model": told("pneumonia-adult"), "model_version": told("1.0.0")}
    score |= {"probability": 0.7, "threshold": 0.4, "flagged": True}
    hand = {"reason": told("body-part"), "message": told("the body part is not the chest")}
    hand |= {"attribute": told("(0018,0015) Body Part Examined"), "value": told("HAND")}
    facts = {"age": told("058Y"), "view": told("PA"), "manufacturer": told("Drawn")}
    found: dict[str, dict[str, Any]] = {
        "ward/chest.dcm": {"outcome": "flagged", "kind": "DICOM", "findings": [score], "facts": facts},
        "ward/hand.dcm": {"outcome": "not_analysed", "kind": "DICOM", "exclusion": hand, "facts": facts},
    }
    with department.database.begin() as connection:
        drop = drops.add(
            connection,
            owner="session:admin.person",
            purpose="try",
            options={},
            now=now,
            expires_at=now + timedelta(hours=1),
            key=TRIED,
        )
        for name, result in found.items():
            file = drops.add_file(connection, drop.id, name=told(name), state=drops.WAITING, now=now, size=2_100_000)
            notes = {"notes": [told("the window of the sender was not used")], "has_preview": False}
            drops.settle(connection, file.id, state=drops.DONE, now=now, result={**result, **notes})
        file = drops.add_file(connection, drop.id, name=told("letter.txt"), state=drops.WAITING, now=now, size=900)
        reason = told("neither DICOM nor a picture: the first bytes are those of no known kind")
        drops.settle(connection, file.id, state=drops.REFUSED, now=now, reason=reason)
