"""Feedback over HTTP: a reader agrees, disagrees or is unsure, and what was said can be read and exported."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cxr_node.findings import FINDINGS
from cxr_node.worklist.feedback import NotAssessable, UnknownStudy, Verdict, export_csv, record
from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Assessor, StudyReader
from cxr_node.worklist.web.description import ProblemBody
from storage import feedback, studies
from storage.feedback import Feedback

UNKNOWN = "no image of a study with this Study Instance UID was received"


class VerdictBody(BaseModel):
    """What the reader says of the result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: Literal["agree", "disagree", "unsure"]
    finding: str = Field(
        "",
        max_length=64,
        description="which finding, also one that was missed; empty: the result, or the one finding that it states",
    )
    comment: str = Field("", max_length=2000, description="for those who look after the models; goes into the object")
    revision: int | None = Field(None, ge=1, description="of the result that the reader saw; the current one if null")

    @field_validator("finding")
    @classmethod
    def _known(cls, value: str) -> str:
        if value and value not in FINDINGS:
            raise ValueError(f"expected one of {', '.join(FINDINGS)}, or nothing")
        return value

    @field_validator("comment")
    @classmethod
    def _printable(cls, value: str) -> str:
        return "".join(character for character in value if character.isprintable() or character in "\n\t").strip()


class FeedbackBody(BaseModel):
    """A verdict that was given."""

    model_config = ConfigDict(frozen=True)

    created_at: datetime
    revision: int = Field(description="of the result that it is on")
    finding: str = Field(description="empty: the result as a whole")
    verdict: Literal["agree", "disagree", "unsure"]
    reader: str = Field(description="login; the node knows nothing else of who they are")
    comment: str
    observation_uid: str = Field(description="(0040,A171) of the finding in the report; empty where it states none")
    sop_instance_uid: str = Field(description="of the document that tells of it")


class FeedbackListBody(BaseModel):
    """What readers said of a study's results, oldest first."""

    feedback: list[FeedbackBody]


router = APIRouter(
    prefix="/api",
    tags=["feedback"],
    responses={401: {"model": ProblemBody, "description": "a token is needed"}, 503: {"model": ProblemBody}},
)


@router.post(
    "/studies/{study_instance_uid:path}/feedback",
    summary="Agree or disagree with a result",
    status_code=201,
    responses={
        403: {"model": ProblemBody, "description": "the token's role may not assess, or the page's origin"},
        404: {"model": ProblemBody, "description": "never received"},
        409: {"model": ProblemBody, "description": "no result, or none with a report"},
    },
)
def give_feedback(request: Request, reader: Assessor, study_instance_uid: str, body: VerdictBody) -> FeedbackBody:
    """Kept for good: a later verdict of the same reader is a new one, whose document names the former."""
    services: Services = request.app.state.services
    said = Verdict(body.verdict, reader.name, reader.role, body.finding, body.comment, body.revision)
    try:
        return _body(record(services, study_instance_uid, said))
    except UnknownStudy:
        raise HTTPException(404, UNKNOWN) from None
    except NotAssessable as error:
        raise HTTPException(409, str(error)) from None


@router.get(
    "/studies/{study_instance_uid:path}/feedback",
    summary="What readers said of a study's results",
    responses={404: {"model": ProblemBody, "description": "never received"}},
)
def read_feedback(request: Request, reader: StudyReader, study_instance_uid: str) -> FeedbackListBody:
    """Of all revisions."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        if studies.get(connection, study_instance_uid) is None:
            raise HTTPException(404, UNKNOWN)
        found = feedback.of_study(connection, study_instance_uid)
    services.audit.record("feedback_read", actor=reader.name, study_instance_uid=study_instance_uid, role=reader.role)
    return FeedbackListBody(feedback=[_body(item) for item in found])


@router.get(
    "/feedback.csv",
    summary="All feedback as CSV",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}},
)
def export_feedback(
    request: Request,
    reader: StudyReader,
    since: Annotated[datetime | None, Query(description="ISO 8601; UTC where it names no offset")] = None,
) -> StreamingResponse:
    """One line for each verdict, oldest first, with what the result said."""
    services: Services = request.app.state.services
    services.audit.record("feedback_exported", actor=reader.name, role=reader.role)
    return StreamingResponse(
        export_csv(services.database, aware(since)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="feedback.csv"'},
    )


def aware(at: datetime | None) -> datetime | None:
    """Return the time with a zone, UTC where it names none."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _body(item: Feedback) -> FeedbackBody:
    return FeedbackBody.model_validate(
        {name: getattr(item, name) for name in FeedbackBody.model_fields},
    )
