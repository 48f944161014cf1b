"""What the routes share, made once."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cxr_node.clock import utc_now
from cxr_node.errors import SettingsError
from cxr_node.settings import Settings
from cxr_node.work.files import instance_files
from cxr_node.worklist.audit import AuditTrail
from cxr_node.worklist.listing import Listing
from cxr_node.worklist.ups_events import Announcer
from cxr_node.worklist.ups_pump import Keeper, Pump
from cxr_node.worklist.ups_service import UpsService
from cxr_node.worklist.ups_tasks import Tasks
from cxr_node.worklist.ups_watch import UpsWatch
from cxr_node.worklist.web.access import Access
from cxr_node.worklist.web.events import EventHub
from cxr_node.worklist.web.study.previews import Previews
from storage import Database, Doorbell, InstanceFiles


@dataclass(frozen=True)
class Services:
    """Found by a request as ``request.app.state.services``."""

    settings: Settings
    database: Database
    files: InstanceFiles
    listing: Listing
    audit: AuditTrail
    access: Access
    events: EventHub
    zone: ZoneInfo
    now: Callable[[], datetime]
    ups: UpsService
    watch: UpsWatch
    pump: Pump
    previews: Previews


def make_services(settings: Settings, database: Database, now: Callable[[], datetime] = utc_now) -> Services:
    """Put them together.

    Raises
    ------
    SettingsError
        `worklist.time_zone` is no IANA zone.
    """
    worklist = settings.worklist
    try:
        zone = ZoneInfo(worklist.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SettingsError(
            f"worklist.time_zone: expected an IANA time zone such as Europe/Berlin, found {worklist.time_zone!r}"
        ) from error
    doorbell = Doorbell(settings.data_dir / "run", database)
    files = instance_files(settings)
    listing = Listing(database, worklist, now)
    tasks = Tasks(settings, database, listing, zone)
    announcer = Announcer(settings, tasks)
    keeper = Keeper(settings, files, tasks, announcer)
    return Services(
        settings=settings,
        database=database,
        files=files,
        listing=listing,
        audit=AuditTrail(database, now),
        access=Access(database, worklist, now),
        events=EventHub(doorbell),
        zone=zone,
        now=now,
        ups=UpsService(database, doorbell, tasks, keeper, announcer, now),
        watch=UpsWatch(database, doorbell, tasks, keeper, announcer, now),
        pump=Pump(database, doorbell, tasks, keeper, now),
        previews=Previews(),
    )
