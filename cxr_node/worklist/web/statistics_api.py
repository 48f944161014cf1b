"""The figures of the charts over HTTP, for admins."""

import datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cxr_node.worklist.figures import Proportion
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.admin.charts_page import DaysAsked, figures
from cxr_node.worklist.web.admin.statistics import Statistics
from cxr_node.worklist.web.destinations_api import ProblemBody


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShareBody(_Body):
    """A share with its 95 % interval (Wilson); null where nothing was counted."""

    part: int
    of: int
    value: float | None
    low: float | None
    high: float | None


class DayBody(_Body):
    """A day in the site's zone; a study is counted on the day of its last image."""

    day: datetime.date
    studies: int
    analysed: int
    flagged: int
    not_analysed: int
    failed: int
    pending: int
    flag_rate: ShareBody
    latency_p50_s: float | None = Field(description="from the first image to the first result")
    latency_p95_s: float | None


class HourBody(_Body):
    """An hour."""

    start: datetime.datetime
    studies: int


class DriftBody(_Body):
    """Population stability index of the last 7 days against the 28 before."""

    recent: int
    before: int
    index: float | None = Field(description="null below 200 recent or 500 earlier images")
    chance: float | None = Field(description="what it stays below in 19 of 20 weeks without any change")
    says: str


class ModelBody(_Body):
    """A finding of a package, shadow ones too."""

    model: str
    version: str
    digest: str
    finding: str
    threshold: float | None = Field(description="null where the package is not on the disk any more")
    images: int
    flag_rate: ShareBody
    drift: DriftBody


class ReadersBody(_Body):
    """What readers said. They look at some studies and know what was flagged: it is agreement, not truth."""

    flagged: int
    flagged_with_verdict: int
    not_flagged: int
    not_flagged_with_verdict: int
    unsure: int
    ppv: ShareBody
    agreement: ShareBody


class StatisticsBody(_Body):
    """All figures of a range of days, counted at most once a minute."""

    at: datetime.datetime
    time_zone: str
    studies: int
    flag_rate: ShareBody
    latency_p50_s: float | None
    latency_p95_s: float | None
    exclusions: dict[str, int] = Field(description="studies not analysed at all, by the reason of the first image")
    days: list[DayBody]
    hours: list[HourBody]
    models: list[ModelBody]
    readers: ReadersBody


router = APIRouter(
    prefix="/api/statistics",
    tags=["monitoring"],
    responses={
        401: {"model": ProblemBody, "description": "a token is needed"},
        403: {"model": ProblemBody, "description": "only the role admin may"},
        503: {"model": ProblemBody},
    },
)


@router.get("", summary="Volume, flag rates, exclusions, latency, drift, reader agreement")
def read_statistics(request: Request, admin: Admin, days: DaysAsked = "30") -> StatisticsBody:
    """No study can be told from them."""
    time_zone = request.app.state.services.settings.worklist.time_zone
    return _told(figures(request, int(days)), time_zone)


def _told(found: Statistics, time_zone: str) -> StatisticsBody:
    return StatisticsBody(
        at=found.at,
        time_zone=time_zone,
        studies=found.studies,
        flag_rate=_share(found.flag_rate),
        latency_p50_s=found.latency_p50_s,
        latency_p95_s=found.latency_p95_s,
        exclusions=dict(found.exclusions),
        days=[DayBody(**{**vars(day), "flag_rate": _share(day.flag_rate)}) for day in found.days],
        hours=[HourBody(start=hour.start, studies=hour.studies) for hour in found.hours],
        models=[
            ModelBody(
                model=item.key.model,
                version=item.key.version,
                digest=item.key.digest,
                finding=item.key.finding,
                threshold=item.threshold,
                images=item.images,
                flag_rate=_share(item.flag_rate),
                drift=DriftBody(**vars(item.drift), says=item.drift.word),
            )
            for item in found.models
        ],
        readers=ReadersBody(
            **{
                **vars(found.readers),
                "ppv": _share(found.readers.ppv),
                "agreement": _share(found.readers.agreement),
            }
        ),
    )


def _share(found: Proportion) -> ShareBody:
    return ShareBody(**vars(found))
