"""Images over HTTP: what was received, previews of stored pixels, and the result objects as DICOM files."""

from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Person, StudyReader
from cxr_node.worklist.web.api import FindingBody, ProblemBody
from cxr_node.worklist.web.study.images import ReceivedObject, received
from cxr_node.worklist.web.study.previews import NoPreview, PreviewImage, PreviewsBusy
from storage import instances, results
from storage.errors import StorageBusy, StorageError
from storage.instances import Instance
from storage.results import ResultObject

UNKNOWN_STUDY = "no image of a study with this Study Instance UID was received"
UNKNOWN_OBJECT = "no such object of this study is kept here"
SIZES = {"512": 512, "1024": 1024, "full": 100_000}

Size = Annotated[Literal["512", "1024", "full"], Query(description="longest side in pixels; reduced by area averaging")]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class ImageExclusionBody(_Body):
    """Why an image was not analysed."""

    reason: str = Field(description="name of the acceptance rule")
    message: str
    attribute: str = Field(description="tag and name, e.g. `(0018,0015) Body Part Examined`")
    value: str = Field(description="what was found there; empty when absent")
    accepts: str = Field(description="what the rule accepts; empty where no acceptance rule objected")


class ImageBody(_Body):
    """A received object."""

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_class: str
    transfer_syntax_uid: str
    kind: Literal["image", "own", "conflict", "other"] = Field(
        description="own: a result object that came back; conflict: another object under a known SOP Instance UID; "
        "other: no image"
    )
    variant: int = Field(description="0, above it for conflicts")
    size: int = Field(description="bytes")
    received_at: datetime
    findings: list[FindingBody]
    exclusion: ImageExclusionBody | None
    notes: list[str]


class ImageListBody(_Body):
    """Everything received of a study and still kept."""

    study_instance_uid: str
    images: list[ImageBody]


class PreviewBody(_Body):
    """What the values of a preview mean. For information only, not for diagnosis."""

    rows: int = Field(description="of the stored image")
    columns: int
    bits_stored: int
    photometric_interpretation: str
    lowest: int = Field(description="least stored value; 0 in the preview's values stands for it")
    highest: int
    window_low: float = Field(description="stored value at which the first look starts to leave its darkest gray")
    window_high: float
    inverted: bool = Field(description="MONOCHROME1: higher values are darker")
    slope: float | None = Field(description="stored value x slope + intercept is the modality value; null: a LUT is")
    intercept: float | None
    voi: Literal["table", "window", "range"] = Field(description="where the first look comes from; range: no attribute")
    gray: list[int] = Field(description="0 to 255, at evenly spaced stored values from lowest to highest")


router = APIRouter(
    prefix="/api",
    tags=["images"],
    responses={401: {"model": ProblemBody, "description": "a token is needed"}, 503: {"model": ProblemBody}},
)
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": ProblemBody, "description": "never received, or no longer kept"}
}
_NO_PREVIEW: dict[int | str, dict[str, Any]] = {
    409: {"model": ProblemBody, "description": "it has no preview: no image, color, frames, or broken"}
}


@router.get("/studies/{study_instance_uid:path}/images", summary="Images of a study", responses={**_NOT_FOUND})
def list_images(request: Request, reader: StudyReader, study_instance_uid: str) -> ImageListBody:
    """With findings or the reason for exclusion of each, as the current result says."""
    services: Services = request.app.state.services
    entry = services.listing.entry(study_instance_uid)
    if entry is None:
        raise HTTPException(404, UNKNOWN_STUDY)
    with services.database.read() as connection:
        found = received(connection, entry)
    _audit(services, reader, "study_read", study_instance_uid)
    return ImageListBody(study_instance_uid=study_instance_uid, images=[_image(item) for item in found])


@router.get(
    "/studies/{study_instance_uid:path}/images/{sop_instance_uid:path}/preview",
    summary="What the values of an image's preview mean",
    responses={**_NOT_FOUND, **_NO_PREVIEW},
)
def describe_preview(
    request: Request,
    reader: StudyReader,
    study_instance_uid: str,
    sop_instance_uid: str,
    variant: Annotated[int, Query(ge=0, le=1000)] = 0,
    size: Size = "1024",
) -> PreviewBody:
    """Color images and images of several frames have none: they are for the site's viewer."""
    made = _preview(request, reader, study_instance_uid, sop_instance_uid, variant, size)
    return PreviewBody(**made.description)


@router.get(
    "/studies/{study_instance_uid:path}/images/{sop_instance_uid:path}/pixels",
    summary="The values of an image's preview",
    response_class=Response,
    responses={
        200: {
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            "description": "little-endian uint16, row by row: stored values less `lowest` of the description",
            "headers": {
                "X-Rows": {"schema": {"type": "integer"}},
                "X-Columns": {"schema": {"type": "integer"}},
            },
        },
        **_NOT_FOUND,
        **_NO_PREVIEW,
    },
)
def read_pixels(
    request: Request,
    reader: StudyReader,
    study_instance_uid: str,
    sop_instance_uid: str,
    variant: Annotated[int, Query(ge=0, le=1000)] = 0,
    size: Size = "1024",
) -> Response:
    """For information only, not for diagnosis."""
    made = _preview(request, reader, study_instance_uid, sop_instance_uid, variant, size)
    headers = {"X-Rows": str(made.rows), "X-Columns": str(made.columns)}
    return Response(made.values, media_type="application/octet-stream", headers=headers)


@router.get(
    "/studies/{study_instance_uid:path}/objects/{sop_instance_uid:path}",
    summary="A result object as a DICOM file",
    response_class=Response,
    responses={
        200: {"content": {"application/dicom": {"schema": {"type": "string", "format": "binary"}}}},
        **_NOT_FOUND,
    },
)
def download_object(request: Request, reader: StudyReader, study_instance_uid: str, sop_instance_uid: str) -> Response:
    """The bytes that destinations are sent."""
    services: Services = request.app.state.services
    stored = _result_object(services, study_instance_uid, sop_instance_uid)
    data = None if stored is None else _bytes(services, stored)
    if stored is None or data is None:
        raise HTTPException(404, UNKNOWN_OBJECT)
    services.audit.record(
        "result_object_downloaded",
        actor=reader.name,
        study_instance_uid=study_instance_uid,
        role=reader.role,
        kind=stored.kind,
        sop_instance_uid=stored.sop_instance_uid,
    )
    # The UID is the node's own; the name is made of nothing that a sender wrote.
    name = f"{stored.kind.partition(':')[0]}-{stored.sop_instance_uid}.dcm"
    name = "".join(sign for sign in name if sign.isascii() and (sign.isalnum() or sign in "-."))
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type="application/dicom", headers=headers)


def _preview(
    request: Request, reader: Person, study_instance_uid: str, sop_instance_uid: str, variant: int, size: str
) -> PreviewImage:
    services: Services = request.app.state.services
    instance = find_instance(services, study_instance_uid, sop_instance_uid, variant)
    if instance is None:
        raise HTTPException(404, UNKNOWN_OBJECT)
    try:
        if not services.files.exists(instance.location):
            raise HTTPException(404, UNKNOWN_OBJECT)
    except StorageBusy:
        raise HTTPException(503, "the images cannot be reached now; try again", {"Retry-After": "5"}) from None
    except StorageError:
        raise HTTPException(404, UNKNOWN_OBJECT) from None
    _audit(services, reader, "image_previewed", study_instance_uid)
    try:
        lend = partial(services.files.local, instance.location)
        return services.previews.preview_of(instance.location, lend, SIZES[size])
    except StorageBusy:
        raise HTTPException(503, "the images cannot be reached now; try again", {"Retry-After": "5"}) from None
    except StorageError as error:
        raise HTTPException(409, f"the image cannot be shown: {error}") from None
    except NoPreview as error:
        raise HTTPException(409, str(error)) from None
    except PreviewsBusy:
        raise HTTPException(503, "other previews are being made; try again", {"Retry-After": "2"}) from None


def find_instance(
    services: Services, study_instance_uid: str, sop_instance_uid: str, variant: int = 0
) -> Instance | None:
    """Return an instance of the study that is still kept, or None."""
    with services.database.read() as connection:
        found = instances.by_sop_instance_uid(connection, sop_instance_uid)
    return next(
        (item for item in found if item.study_instance_uid == study_instance_uid and item.variant == variant), None
    )


def _result_object(services: Services, study_instance_uid: str, sop_instance_uid: str) -> ResultObject | None:
    with services.database.read() as connection:
        for result in results.revisions(connection, study_instance_uid):
            for stored in results.objects(connection, result.id):
                # A priority notice is a row here too, but no DICOM object.
                if stored.sop_instance_uid == sop_instance_uid and stored.sop_class_uid:
                    return stored
    return None


def _bytes(services: Services, stored: ResultObject) -> bytes | None:
    try:
        return services.files.read(stored.location)
    except StorageError:
        return None


def _audit(services: Services, reader: Person, event: str, study_instance_uid: str) -> None:
    services.audit.record(event, actor=reader.name, study_instance_uid=study_instance_uid, role=reader.role, by="api")


def _image(item: ReceivedObject) -> ImageBody:
    kept = item.instance
    return ImageBody(
        sop_instance_uid=kept.sop_instance_uid,
        series_instance_uid=kept.series_instance_uid,
        sop_class_uid=kept.sop_class_uid,
        sop_class=item.sop_class,
        transfer_syntax_uid=kept.transfer_syntax_uid,
        kind=item.kind,
        variant=kept.variant,
        size=kept.size,
        received_at=kept.received_at,
        findings=[
            FindingBody(
                model=score["model"],
                version=score["model_version"],
                finding=score["finding"],
                probability=score["probability"],
                threshold=score["threshold"],
                flagged=score["flagged"],
            )
            for score in item.scores
        ],
        exclusion=ImageExclusionBody(**vars(item.excluded)) if item.excluded is not None else None,
        notes=list(item.notes),
    )
