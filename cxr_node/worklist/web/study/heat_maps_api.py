"""Heat maps over HTTP, profile `research` only: a reader asks for one, and the stage of analysis makes it."""

from typing import Literal

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import StudyReader
from cxr_node.worklist.web.api import ProblemBody
from cxr_node.worklist.web.study.images_api import UNKNOWN_OBJECT, find_instance
from storage import Doorbell, heat_maps, results
from storage.errors import StorageError
from storage.heat_maps import HeatMap
from storage.instances import Instance

NOT_VALIDATED = "Shows where covering the image lowers the score. Not a validated localisation of anything."
_NONE_HERE = "heat maps exist in profile research only"


class HeatMapAskedBody(BaseModel):
    """Which map is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(max_length=200, description="name of the model, as in the image's findings")
    finding: str = Field(max_length=64)


class HeatMapBody(BaseModel):
    """A heat map, or how far it is."""

    model_config = ConfigDict(frozen=True)

    id: int
    finding: str
    state: Literal["asked", "made", "empty", "failed"] = Field(
        description="empty: made, and no part of the image lowers the score"
    )
    reason: str = Field(description="why it failed; empty otherwise")
    notice: str = NOT_VALIDATED


router = APIRouter(
    prefix="/api",
    tags=["heat maps"],
    responses={
        401: {"model": ProblemBody, "description": "a token is needed"},
        404: {"model": ProblemBody, "description": "no such image is kept here, or profile triage"},
        503: {"model": ProblemBody},
    },
)
_PATH = "/studies/{study_instance_uid:path}/images/{sop_instance_uid:path}/heat-maps"


@router.post(
    _PATH,
    summary="Ask for a heat map",
    status_code=202,
    responses={
        403: {"model": ProblemBody, "description": "the page's origin"},
        409: {"model": ProblemBody, "description": "the image was not scored so"},
    },
)
def ask(
    request: Request, reader: StudyReader, study_instance_uid: str, sop_instance_uid: str, body: HeatMapAskedBody
) -> HeatMapBody:
    """One that is made or being made is not made again; one that failed is tried anew."""
    services: Services = request.app.state.services
    instance = _instance(services, study_instance_uid, sop_instance_uid)
    with services.database.begin() as connection:
        result = results.current(connection, study_instance_uid)
        digest = _digest(result.outcome if result is not None else {}, sop_instance_uid, body)
        if digest is None:
            raise HTTPException(409, "no such score of this image in the current result")
        found = heat_maps.ask(connection, instance.id, model_digest=digest, finding=body.finding, now=services.now())
    Doorbell(services.settings.data_dir / "run", services.database).ring("side")
    services.audit.record(
        "heat_map_asked", actor=reader.name, study_instance_uid=study_instance_uid, role=reader.role, by="api"
    )
    return _body(found)


@router.get(_PATH + "/{heat_map_id}", summary="How far a heat map is")
def read_state(
    request: Request, reader: StudyReader, study_instance_uid: str, sop_instance_uid: str, heat_map_id: str
) -> HeatMapBody:
    """Asked again and again until it is made."""
    return _body(_found(request.app.state.services, study_instance_uid, sop_instance_uid, heat_map_id))


@router.get(
    _PATH + "/{heat_map_id}/picture",
    summary="A heat map as a picture",
    response_class=Response,
    responses={
        200: {
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
            "description": "grayscale over the whole image, white where covering it lowers the score most",
        }
    },
)
def read_picture(
    request: Request, reader: StudyReader, study_instance_uid: str, sop_instance_uid: str, heat_map_id: str
) -> Response:
    """Not a validated localisation of anything."""
    services: Services = request.app.state.services
    found = _found(services, study_instance_uid, sop_instance_uid, heat_map_id)
    if found.state != heat_maps.MADE or not found.location:
        raise HTTPException(404, "there is no picture of this heat map")
    try:
        data = services.files.read(found.location)
    except StorageError:
        raise HTTPException(404, "there is no picture of this heat map") from None
    services.audit.record(
        "heat_map_read", actor=reader.name, study_instance_uid=study_instance_uid, role=reader.role, by="api"
    )
    return Response(data, media_type="image/png")


def _instance(services: Services, study_instance_uid: str, sop_instance_uid: str) -> Instance:
    if services.settings.node.profile != "research":
        raise HTTPException(404, _NONE_HERE)
    instance = find_instance(services, study_instance_uid, sop_instance_uid)
    if instance is None:
        raise HTTPException(404, UNKNOWN_OBJECT)
    return instance


def _found(services: Services, study_instance_uid: str, sop_instance_uid: str, heat_map_id: str) -> HeatMap:
    instance = _instance(services, study_instance_uid, sop_instance_uid)
    # Text in the route: a number that the database cannot hold is an unknown one, not an error.
    number = int(heat_map_id) if heat_map_id.isascii() and heat_map_id.isdigit() and len(heat_map_id) <= 18 else 0
    with services.database.read() as connection:
        found = heat_maps.get(connection, number)
    if found is None or found.instance_id != instance.id:
        raise HTTPException(404, "there is no such heat map")
    return found


def _digest(outcome: dict[str, object], sop_instance_uid: str, asked: HeatMapAskedBody) -> str | None:
    """Return the digest of the model that gave the image the score, or None."""
    images = outcome.get("images")
    for image in images if isinstance(images, list) else []:
        if image["sop_instance_uid"] == sop_instance_uid:
            for score in image["scores"]:
                if (score["model"], score["finding"]) == (asked.model, asked.finding):
                    return str(score["model_digest"])
    return None


def _body(found: HeatMap) -> HeatMapBody:
    state = "empty" if found.state == heat_maps.MADE and not found.location else found.state
    return HeatMapBody.model_validate(
        {"id": found.id, "finding": found.finding, "state": state, "reason": found.reason}
    )
