"""Every fault point of the node, and what holds after the process was killed there: the table of kill -9.

`rows` gives this table and the one of `faults.FAULTS` for the document on faults survived. A test holds it to the code.
"""

from dataclasses import dataclass

from tests.faults.faults import FAULTS


@dataclass(frozen=True)
class Point:
    """A place between two durable steps.

    `when` completes "the process is killed"; `after` is what was seen to hold once it was started again.
    """

    name: str
    stage: str
    when: str
    after: str


POINTS: tuple[Point, ...] = (
    Point(
        "storage.complete",
        "receive",
        "when an image is complete in the folder of incoming files, before its fsync",
        "the sender heard nothing and sends it again: one row, one file, the bytes as sent",
    ),
    Point(
        "storage.synced",
        "receive",
        "after the fsync of an image, before it gets its name",
        "the sender heard nothing and sends it again: one row, one file, the bytes as sent",
    ),
    Point(
        "storage.renamed",
        "receive",
        "after an image got its name, before its folder is synced",
        "the image sent again is a row of its own file; the file that no row names is removed by upkeep",
    ),
    Point(
        "receive.after-keep",
        "receive",
        "when the bytes of an image are durable, before its row is written",
        "the image sent again is a row of its own file; the file that no row names is removed by upkeep",
    ),
    Point(
        "receive.before-commit",
        "receive",
        "with row, study and job written and not committed",
        "nothing of the transaction is there; the image sent again is one row with one job",
    ),
    Point(
        "receive.after-commit",
        "receive",
        "after the commit, before Success is answered",
        "the image sent again is known by its bytes and answered Success: one row, one job",
    ),
    Point(
        "receive.before-hasten",
        "receive",
        "after Success, before the end of the association makes the study due",
        "the study is due at the end of its quiet period",
    ),
    Point(
        "receive.before-remove",
        "receive",
        "after a file of the watched folder was taken, before it is removed there",
        "it is taken once more, found to be known, and removed: one row",
    ),
    Point(
        "receive.request-kept",
        "receive",
        "after a modality's request for storage commitment was kept, before it is answered",
        "the same request again is the same one: one row, one report owed",
    ),
    Point(
        "receive.report-kept",
        "receive",
        "after a PACS's report of storage commitment was kept, before it is answered",
        "the report again is answered Success and changes nothing",
    ),
    Point(
        "receive.manifest-kept",
        "receive",
        "after an MPPS was kept, before it is answered",
        "the same step again is answered as known: the list of announced images is there once",
    ),
    Point(
        "work.claimed",
        "analyze",
        "when a worker has leased a job and not begun",
        "the lease ends with the process and the job is done by the next: one result",
    ),
    Point(
        "analyze.claimed",
        "analyze",
        "when the analysis of a study begins",
        "the study is analysed anew: one result, one delivery of each object",
    ),
    Point(
        "analyze.predicted",
        "analyze",
        "when the scores are there and no object is written",
        "the study is analysed anew: one result, one delivery of each object",
    ),
    Point(
        "analyze.objects-written",
        "analyze",
        "when all result objects are written, before the result is",
        "one result names one object of each kind, whole; what no row names was never sent",
    ),
    Point(
        "analyze.before-commit",
        "analyze",
        "with result, priority and deliveries written and not committed",
        "nothing of the transaction is there; the next attempt is revision 1",
    ),
    Point(
        "work.settled",
        "analyze",
        "after the commit of a result, before anybody is woken",
        "the result stands, is not made again, and its deliveries start by themselves",
    ),
    Point(
        "deliver.claimed",
        "deliver",
        "when a delivery is leased",
        "the PACS gets the object once",
    ),
    Point(
        "deliver.before-send",
        "deliver",
        "just before the object is sent",
        "the PACS gets the object once",
    ),
    Point(
        "deliver.sent",
        "deliver",
        "after the PACS answered Success, before that is written down",
        "the PACS gets the same bytes under the same UID twice and holds one object",
    ),
    Point(
        "deliver.twin-written",
        "deliver",
        "when a report was made anew in a class that the PACS takes, before its row is written",
        "the PACS gets one report in that class, under one UID",
    ),
    Point(
        "deliver.commitment-begun",
        "deliver",
        "when a request for storage commitment is written down and not sent",
        "the delivery is proved by a further request",
    ),
    Point(
        "deliver.commitment-asked",
        "deliver",
        "after the PACS took a request for storage commitment, before that is written down",
        "the delivery is proved, by the report on this request or by a further one",
    ),
    Point(
        "deliver.report-kept",
        "deliver",
        "after a report over the association of its request was kept, before it is answered",
        "the delivery is proved once",
    ),
    Point(
        "deliver.commitment-reported",
        "deliver",
        "after a modality took the node's report of storage commitment, before that is written down",
        "the modality gets the same report twice",
    ),
    Point(
        "worklist.events-kept",
        "worklist",
        "after events for subscribers were kept, before anybody is woken to send them",
        "every subscriber gets them after the start",
    ),
    Point(
        "worklist.event-sent",
        "worklist",
        "after a subscriber took an event, before it is forgotten",
        "the subscriber gets that event again, and every later one, in order",
    ),
    Point(
        "worklist.feedback-written",
        "worklist",
        "when the document of a reader's verdict is written, before its row is",
        "nothing was kept and nothing answered; the verdict given again is one",
    ),
    Point(
        "worklist.feedback-kept",
        "worklist",
        "after a reader's verdict was committed, before it is answered",
        "the verdict stands with its document and its delivery",
    ),
    Point(
        "worklist.action-kept",
        "worklist",
        "after the claim of a work item was committed, before it is answered",
        "the work item is claimed under the Transaction UID of the claim, which its holder knows",
    ),
    Point(
        "orders.kept",
        "orders",
        "after an order was committed, before it is acknowledged",
        "the message again is answered as it was: one order, one message, the study raised once",
    ),
    Point(
        "orders.asked",
        "orders",
        "after the RIS told of an order, before that is written down",
        "the RIS is asked again: one order, the study raised",
    ),
    Point(
        "upkeep.queued",
        "upkeep",
        "when retention is put into the queue",
        "retention runs once the stage is back",
    ),
    Point(
        "upkeep.marked",
        "upkeep",
        "when rows say that images are deleted and their files are there",
        "the files are removed as files that no row names; no row names a file that is gone",
    ),
    Point(
        "upkeep.deleted",
        "upkeep",
        "between two files that retention deletes",
        "the rest is removed as files that no row names; no row names a file that is gone",
    ),
    Point(
        "upkeep.leases-recovered",
        "upkeep",
        "when a lease that ran out was taken back, before anybody is woken",
        "the job is there to be claimed, once",
    ),
    Point(
        "backup.database-saved",
        "upkeep",
        "when a backup holds the database and no bytes",
        "what is unfinished looks like no backup, and the next one is whole",
    ),
    Point(
        "backup.written",
        "upkeep",
        "when a backup is written whole, before it gets its name",
        "what is unfinished looks like no backup, and the next one is whole",
    ),
    Point(
        "backup.complete",
        "upkeep",
        "when a backup has its name, before the queue is told",
        "the backup verifies",
    ),
    Point(
        "storage.migrating",
        "upgrade",
        "between two migrations of an upgrade",
        "the database is as it was before the upgrade, which then runs whole",
    ),
    Point(
        "storage.migrated",
        "upgrade",
        "after the last migration of an upgrade, before the commit",
        "the database is as it was before the upgrade, which then runs whole",
    ),
)


def rows() -> list[dict[str, str]]:
    """Return the faults survived, one row each: kind of fault, what happens, what holds after, and the test."""
    killed = [
        {
            "fault": "kill -9",
            "stage": point.stage,
            "happens": f"the process is killed {point.when}",
            "holds": point.after,
            "test": f"tests/faults/test_kill_{MODULES[point.stage]}.py ({point.name})",
        }
        for point in POINTS
    ]
    others = [
        {"fault": item.fault, "stage": item.stage, "happens": item.happens, "holds": item.holds, "test": item.test}
        for item in FAULTS
    ]
    return killed + others


# Stage → the module that kills it.
MODULES = {
    "receive": "receive",
    "analyze": "analyze",
    "deliver": "deliver",
    "worklist": "worklist",
    "orders": "worklist",
    "upkeep": "upkeep",
    "upgrade": "upkeep",
}
