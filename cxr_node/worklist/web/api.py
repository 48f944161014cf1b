"""The JSON API: the worklist as programs read it. Times are ISO 8601, UTC."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from cxr_node.findings import OrderedPriority, StudyStatus
from cxr_node.worklist.listing import Entry
from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import StudyReader
from cxr_node.worklist.web.description import ProblemBody
from cxr_node.worklist.web.list_query import ApiQuery
from cxr_node.worklist.web.present import priority_reason

PRIORITIES = "STAT, HIGH, MEDIUM, ROUTINE or LOW, the defined terms of (0040,1003)"


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class PatientContextBody(_Body):
    """Whom and what the images show, as the sender wrote it; empty where it wrote nothing."""

    patient_name: str = Field(description="with `^` between components and `=` between groups")
    patient_id: str
    issuer_of_patient_id: str
    birth_date: str = Field(description="DICOM DA, e.g. `19760102`")
    sex: str
    age: str = Field(description="DICOM AS, e.g. `050Y`")
    accession_number: str
    study_id: str
    study_date: str
    study_time: str
    study_description: str
    referring_physician_name: str
    modality: str
    body_part: str
    view: str
    ordered_priority: str = Field(description="as the sender wrote it")


class FindingBody(_Body):
    """A finding of a model in the study: the highest over its images, with the operating point it was held against."""

    model: str
    version: str
    finding: str
    probability: float = Field(ge=0, le=1)
    threshold: float = Field(ge=0, le=1)
    flagged: bool


class ExclusionBody(_Body):
    """An image that was not analysed, and why."""

    sop_instance_uid: str
    reason: str = Field(description="name of the acceptance rule")
    message: str = Field(description="the reason in words")
    attribute: str = Field(description="e.g. `(0018,0015) Body Part Examined`")
    value: str = Field(description="what was found there; empty when absent")


class DeliveryBody(_Body):
    """A result object of the current revision on its way to a destination."""

    id: int = Field(description="names the delivery where it is to be sent again")
    destination: str
    object: str
    state: Literal["SCHEDULED", "DELIVERED", "COMMITTED", "FAILED", "SUPERSEDED", "SKIPPED"]
    reason: str = Field(description="what the last try met; empty when nothing went wrong")
    proof: Literal["", "asked", "proved", "unavailable", "failed"] = Field(
        description="whether the destination holds what it took; empty: nobody asks; unavailable: it cannot tell"
    )
    proof_method: Literal["", "storage-commitment", "query"] = Field(description="how that is found out")
    proof_reason: str = Field(description="what the last look met; empty when nothing went wrong")


class ReadingBody(_Body):
    """The reading of the study as a work item, which a reader's system may claim."""

    state: Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]
    performer: str = Field(description="who claimed it: an AE title, or the name of a token; empty before")


class StudyBody(_Body):
    """A study on the worklist."""

    study_instance_uid: str = Field(description="(0020,000D)")
    patient_context: PatientContextBody = Field(description="whom and what the images show, as the sender wrote it")
    received_at: datetime = Field(description="when its first image was stored; waiting time counts from here")
    notified_at: datetime | None = Field(description="when its first result was visible; null before")
    status: StudyStatus = Field(description="pending: no result yet; not_analysed: every image was excluded")
    flagged: bool = Field(description="an image crossed an operating point. False never means that disease is absent")
    ordered_priority: OrderedPriority = Field(description=f"{PRIORITIES}; ROUTINE where the order says nothing")
    ordered_reason: str = Field(description="where the ordered priority comes from; empty where nobody ordered one")
    ai_priority: OrderedPriority | None = Field(description="what the AI proposes; null when it proposes nothing")
    effective_priority: OrderedPriority = Field(description="the higher of both; never below the ordered one")
    priority_reason: str = Field(description="why it is read with that priority, in words")
    findings: list[FindingBody] = Field(description="of each model, the highest over the images")
    exclusions: list[ExclusionBody] = Field(description="images that were not analysed, and why")
    notes: list[str] = Field(description="what else is to be known of the result: announced images that did not arrive")
    origin: str = Field(description="`backfill` for a study that a back-catalogue run fetched; else empty")
    read_at: datetime | None = Field(description="when a reader had finished it; null before. Then it leaves the list")
    opened_at: datetime | None = Field(description="when a person first looked at its page; null before")
    verdict: Literal["", "agree", "disagree", "unsure"] = Field(
        description="what a reader said last of the result that stands; empty before"
    )
    reading: ReadingBody = Field(description="who reads it")
    revision: int = Field(description="of the current result; 0 without one")
    deliveries: list[DeliveryBody] = Field(description="of the current revision's result objects")
    conflicts: int = Field(description="different objects that came under a known SOP Instance UID; kept apart")
    images: int = Field(description="SOP Instances received")


class StateCountsBody(_Body):
    """How many studies stand in each state of the AI."""

    flagged: int
    pending: int
    not_flagged: int
    not_analysed: int
    failed: int


class StudyListBody(_Body):
    """A page of the worklist, in the order asked for."""

    total: int = Field(description="studies that meet all filters")
    counts: StateCountsBody = Field(description="of the studies that meet all filters but `state`")
    limit: int
    offset: int
    studies: list[StudyBody]


router = APIRouter(
    prefix="/api",
    tags=["studies"],
    responses={401: {"model": ProblemBody, "description": "a token is needed"}, 503: {"model": ProblemBody}},
)


@router.get("/studies", summary="The worklist, in reading order")
def list_studies(request: Request, reader: StudyReader, query: Annotated[ApiQuery, Query()]) -> StudyListBody:
    """Highest priority first, then longest waiting; past the maximum wait a study rises to the top in turn.

    The parameters are those in the address of the page. On the list is what nobody has finished reading and what
    received an image in the last `worklist.retain_h` hours.
    """
    services: Services = request.app.state.services
    found = services.listing.page(query.filter(), sort=query.by, limit=query.limit, offset=query.offset)
    event = "worklist_searched" if query.q.strip() else "worklist_read"  # the words are a patient's name: left out
    services.audit.record(event, actor=reader.name, role=reader.role, studies=len(found.entries))
    return StudyListBody(
        total=found.total,
        counts=StateCountsBody(**found.counts),
        limit=query.limit,
        offset=query.offset,
        studies=[study_body(entry) for entry in found.entries],
    )


@router.get(
    "/studies/{study_instance_uid:path}",
    summary="One study",
    responses={404: {"model": ProblemBody, "description": "never received"}},
)
def read_study(request: Request, reader: StudyReader, study_instance_uid: str) -> StudyBody:
    """A study stays readable here after it left the list."""
    services: Services = request.app.state.services
    entry = services.listing.entry(study_instance_uid)
    if entry is None:
        raise HTTPException(404, "no image of a study with this Study Instance UID was received")
    services.audit.record(
        "study_read", actor=reader.name, study_instance_uid=study_instance_uid, role=reader.role, by="api"
    )
    return study_body(entry)


def study_body(entry: Entry) -> StudyBody:
    """Return the study as the API shows it."""
    study = entry.study
    return StudyBody(
        study_instance_uid=study.study_instance_uid,
        patient_context=PatientContextBody(**vars(study.context)),
        received_at=study.first_received_at,
        notified_at=study.notified_at,
        status=StudyStatus(study.status),
        flagged=study.flagged,
        ordered_priority=entry.ordered,
        ordered_reason=study.ordered_reason,
        ai_priority=entry.ai,
        effective_priority=entry.effective,
        priority_reason=priority_reason(entry),
        findings=[
            FindingBody(
                model=score["model"],
                version=score["model_version"],
                finding=score["finding"],
                probability=score["probability"],
                threshold=score["threshold"],
                flagged=score["flagged"],
            )
            for score in entry.of_outcome("findings")
        ],
        exclusions=[ExclusionBody(**exclusion) for exclusion in entry.of_outcome("exclusions")],
        notes=[str(note) for note in entry.of_outcome("notes")],
        origin=study.origin,
        read_at=study.read_at,
        opened_at=study.opened_at,
        verdict=study.verdict,
        reading=ReadingBody(
            state=entry.reading.state if entry.reading is not None else "SCHEDULED",
            performer=entry.reading.performer if entry.reading is not None else "",
        ),
        revision=study.revision,
        deliveries=[
            DeliveryBody.model_validate(
                {
                    "id": item.id,
                    "destination": item.destination,
                    "object": item.kind,
                    "state": item.state,
                    "reason": item.reason,
                    "proof": item.proof,
                    "proof_method": item.proof_method,
                    "proof_reason": item.proof_reason,
                }
            )
            for item in entry.deliveries
        ],
        conflicts=study.conflicts,
        images=study.images,
    )
