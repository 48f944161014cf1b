"""UPS-RS: the work items over HTTP, as DICOM JSON. The state machine is that of DIMSE: both call `ups_service`.

Access is the API's: who may read may search, retrieve, claim, update and cancel; creating takes a token of the role
`service` or `admin`. There is no WebSocket channel: the events of a subscription go to its AE by N-EVENT-REPORT.

Source: DICOM PS3.18 chapter 11.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from cxr_node.worklist import ups, ups_states
from cxr_node.worklist.dicom_json import MEDIA_TYPE, add_key, check_accept, read_dataset, search, to_json
from cxr_node.worklist.matching import UTF_8
from cxr_node.worklist.services import Services
from cxr_node.worklist.ups_events import FILTERED
from cxr_node.worklist.ups_rules import PERFORMED
from cxr_node.worklist.ups_service import Answer, Requester
from cxr_node.worklist.web.access import Person, WorkItemUser
from cxr_node.worklist.web.description import ProblemBody

SERVICE = "cxr-node"
CREATORS = frozenset({"service", "admin"})
ACTORS = CREATORS | {"reader"}
# Return keys of types 1, 1C and 2 (PS3.4 table CC.2.5-3): in every answer of a search.
RETURNED = frozenset(ups.ATTRIBUTES) - {
    PERFORMED,
    Tag("ScheduledProcedureStepModificationDateTime"),
    Tag("ExpectedCompletionDateTime"),
    Tag("AdmittingDiagnosesDescription"),
    Tag("AdmittingDiagnosesCodeSequence"),
}

_BAD_REQUEST = frozenset(
    {
        ups_states.NO_SUCH_ATTRIBUTE,
        ups_states.INVALID_ATTRIBUTE_VALUE,
        ups_states.INVALID_ARGUMENT_VALUE,
        ups_states.INVALID_OBJECT_INSTANCE,
        ups_states.MISSING_ATTRIBUTE,
        ups_states.MISSING_ATTRIBUTE_VALUE,
        ups_states.WRONG_TRANSACTION_UID,
        ups_states.ONLY_CREATED_AS_SCHEDULED,
        ups_states.NOT_SCHEDULED,
        ups_states.WRONG_INSTANCE_FOR_ACTION,
    }
)
_HTTP = {
    ups_states.NO_SUCH_WORK_ITEM: 404,
    ups_states.NOT_AUTHORIZED: 403,
    ups_states.UNKNOWN_RECEIVER: 403,
}
_INCONSISTENT = "The submitted request is inconsistent with the current state of the Workitem."
_WARNINGS = {
    ups_states.UNSUPPORTED_OPTIONAL_ATTRIBUTES: "Requested optional Attributes are not supported.",
    ups_states.COERCED_VALUES: "The Workitem was updated with modifications.",
    ups_states.ALREADY_CANCELED: "The UPS is already in the requested state of CANCELED.",
    ups_states.ALREADY_COMPLETED: "The UPS is already in the requested state of COMPLETED.",
    ups_states.NO_LONGER_UPDATABLE: _INCONSISTENT,
    ups_states.ALREADY_IN_PROGRESS: _INCONSISTENT,
    ups_states.ONLY_CREATED_AS_SCHEDULED: _INCONSISTENT,
    ups_states.FINAL_STATE_NOT_MET: _INCONSISTENT,
    ups_states.NOT_IN_PROGRESS: "The target URI did not reference a claimed Workitem.",
    ups_states.COMPLETED_ALREADY: _INCONSISTENT,
}


def _actor(reader: WorkItemUser) -> Person:
    """FastAPI dependency: who may act on work items; an auditor looks on."""
    if reader.role not in ACTORS:
        raise HTTPException(403, f"a token of the role {reader.role} may read work items, not change them")
    return reader


Actor = Annotated[Person, Depends(_actor)]


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": ProblemBody, "description": _PROBLEMS[code]} for code in codes}


_PROBLEMS = {
    400: "not as the standard writes it",
    401: "a token is needed",
    403: "the role may not, or the AE is not known",
    404: "there is no such work item or subscription",
    406: f"only {MEDIA_TYPE} is made here",
    409: "not in the state that the work item is in",
    413: "the body is too large",
    415: f"the body is not {MEDIA_TYPE}",
    501: "events are not sent over WebSocket",
    503: "the database does not answer",
}
_ITEMS = {MEDIA_TYPE: {"schema": {"type": "array", "items": {"type": "object"}}}}
_FOUND: dict[str, Any] = {"content": _ITEMS, "description": "DICOM JSON"}
_EMPTY: dict[str, Any] = {"content": {}, "description": "done; a Warning header says what else is to be known"}
_BODY = {"requestBody": {"required": True, "content": _ITEMS}}
_MAY_HAVE_BODY = {"requestBody": {"required": False, "content": _ITEMS}}
_OF_BODY = _problems(409, 413, 415)

router = APIRouter(
    prefix="/dicom-web",
    tags=["UPS-RS"],
    dependencies=[Depends(check_accept)],
    responses=_problems(400, 401, 403, 406, 503),
    default_response_class=Response,
)


@router.post(
    "/workitems",
    status_code=201,
    summary="Create a work item",
    responses={201: _EMPTY, **_problems(404), **_OF_BODY},
    openapi_extra=_BODY,
)
async def create(request: Request, reader: WorkItemUser) -> Response:
    """Its UID is the query parameter, or SOP Instance UID of the body, or else made here."""
    if reader.role not in CREATORS:
        raise HTTPException(403, "creating work items takes a token of the role service")
    given = await read_dataset(request)
    uid = _bare(request, "workitem") or str(given.get("SOPInstanceUID") or "")
    answer = await run_in_threadpool(_services(request).ups.create, uid, given, by=_requester(reader))
    if answer.is_failure:
        return _answer(answer, conflict_is_bad=answer.status == ups_states.NOT_SCHEDULED)
    location = f"{str(request.base_url).rstrip('/')}/dicom-web/workitems/{answer.sop_instance_uid}"
    return Response(status_code=201, headers={"Location": location, "Content-Location": location})


@router.get(
    "/workitems",
    summary="Search work items, the reading list among them",
    responses={
        200: _FOUND,
        204: {"description": "none match"},
        206: {**_FOUND, "description": "there are more: ask again with an offset"},
    },
)
def find(request: Request, reader: WorkItemUser) -> Response:
    """Reading tasks come first, in reading order. No limit means 1000."""
    services, asked = _services(request), search(request)
    keys = Dataset()
    keys.update(asked.keys)
    wanted = set(RETURNED) | set(keys.keys()) | set(asked.fields or ())
    for tag in wanted - set(keys.keys()):
        keys.add_new(tag, "UN", None)  # universal: wanted and not matched
    found: list[Dataset] = []
    more = False
    for place, (item, _) in enumerate(services.ups.tasks.find(keys, now=services.now())):
        if place < asked.offset:
            continue
        if len(found) == asked.limit:
            more = True
            break
        found.append(item)
    if asked.fields is None:
        uids = [str(item.SOPInstanceUID) for item in found]
        found = [whole for uid in uids if (whole := services.ups.get(uid).dataset) is not None]
    services.audit.record("ups_searched", actor=reader.name, role=reader.role, matches=len(found))
    headers = {}
    if asked.fuzzy:
        headers["Warning"] = _warning(
            "The fuzzymatching parameter is not supported. Only literal matching has been performed."
        )
    if not found:
        return Response(status_code=204, headers=headers)
    for item in found:
        item.SpecificCharacterSet = UTF_8
    return Response(to_json(found), 206 if more else 200, headers, MEDIA_TYPE)


@router.get("/workitems/{workitem}", summary="Retrieve a work item", responses={200: _FOUND, **_problems(404, 409)})
def retrieve(request: Request, reader: WorkItemUser, workitem: str) -> Response:
    """All its attributes but the Transaction UID."""
    services = _services(request)
    answer = services.ups.get(workitem)
    if answer.dataset is None:
        return _answer(answer)
    services.audit.record("ups_read", actor=reader.name, study_instance_uid=answer.study_instance_uid, role=reader.role)
    answer.dataset.SpecificCharacterSet = UTF_8
    return Response(to_json([answer.dataset]), media_type=MEDIA_TYPE)


@router.post(
    "/workitems/{workitem}",
    summary="Update a work item",
    responses={200: _EMPTY, **_problems(404), **_OF_BODY},
    openapi_extra=_BODY,
)
async def update(request: Request, reader: Actor, workitem: str) -> Response:
    """The Transaction UID of one that is in progress is the query parameter, or stands in the body."""
    given = await read_dataset(request)
    transaction_uid = _bare(request, "transaction-uid") or _bare(request, "transaction") or None
    answer = await run_in_threadpool(
        _services(request).ups.set, workitem, given, by=_requester(reader), transaction_uid=transaction_uid
    )
    # PS3.18 11.6.2: a final state is a bad request here, and nowhere else.
    return _answer(answer, conflict_is_bad=answer.status == ups_states.NO_LONGER_UPDATABLE)


@router.put(
    "/workitems/{workitem}/state",
    summary="Claim, complete or cancel a work item",
    responses={200: _EMPTY, **_problems(404), **_OF_BODY},
    openapi_extra=_BODY,
)
async def change_state(request: Request, reader: Actor, workitem: str) -> Response:
    """The body holds Procedure Step State and Transaction UID."""
    given = await read_dataset(request)
    requested, transaction_uid = str(given.get("ProcedureStepState") or ""), str(given.get("TransactionUID") or "")
    answer = await run_in_threadpool(
        _services(request).ups.change_state, workitem, requested, transaction_uid, by=_requester(reader)
    )
    if answer.status == ups_states.WRONG_TRANSACTION_UID:
        return _answer(answer, f"The Transaction UID is {'incorrect' if transaction_uid else 'missing'}.")
    return _answer(answer)


@router.post(
    "/workitems/{workitem}/cancelrequest",
    status_code=202,
    summary="Ask for a work item to be canceled",
    responses={202: _EMPTY, **_problems(404), **_OF_BODY},
    openapi_extra=_MAY_HAVE_BODY,
)
async def request_cancel(request: Request, reader: Actor, workitem: str) -> Response:
    """The body, if there is one, says why and whom to ask."""
    given = await read_dataset(request, optional=True)
    answer = await run_in_threadpool(_services(request).ups.request_cancel, workitem, given, by=_requester(reader))
    return _answer(answer, success=202)


@router.post(
    "/workitems/{workitem}/subscribers/{aetitle}",
    status_code=201,
    summary="Subscribe an AE to events",
    responses={201: _EMPTY, **_problems(404, 409)},
)
def subscribe(request: Request, reader: Actor, workitem: str, aetitle: str) -> Response:
    """The AE must stand in a `[[peer]]` section of node.toml: its events go there by N-EVENT-REPORT."""
    lock = request.query_params.get("deletionlock", "false").lower()
    if lock not in ("true", "false"):
        raise HTTPException(400, "deletionlock: expected true or false")
    keys = Dataset()
    for name, value in request.query_params.multi_items():
        if name == "filter":
            for part in value.split(","):
                attribute, _, wanted = part.partition("=")
                add_key(keys, attribute.strip(), wanted)
        elif name not in ("deletionlock", "accept", "charset") and workitem == FILTERED:
            add_key(keys, name, value)  # as the standard wrote it until 2019
    answer = _services(request).watch.subscribe(
        workitem, aetitle, deletion_lock=lock == "true", keys=keys, by=_requester(reader)
    )
    if answer.is_failure:
        return _answer(answer)
    words = "There is no WebSocket channel here; events are sent to the AE by N-EVENT-REPORT."
    return Response(status_code=201, headers={"Warning": _warning(words)})


@router.delete(
    "/workitems/{workitem}/subscribers/{aetitle}",
    summary="End a subscription",
    responses={200: _EMPTY, **_problems(404, 409)},
)
def unsubscribe(request: Request, reader: Actor, workitem: str, aetitle: str) -> Response:
    """By the UID of the whole list, all subscriptions of the AE."""
    watch = _services(request).watch
    if not watch.is_subscribed(workitem, aetitle):
        raise HTTPException(404, "there is no such subscription")
    return _answer(watch.unsubscribe(workitem, aetitle, by=_requester(reader)))


@router.post(
    "/workitems/{workitem}/subscribers/{aetitle}/suspend",
    summary="Suspend a subscription to the list",
    responses={200: _EMPTY, **_problems(404, 409)},
)
def suspend(request: Request, reader: Actor, workitem: str, aetitle: str) -> Response:
    """New work items are not told of any more, those there are go on to be."""
    return _answer(_services(request).watch.suspend(workitem, aetitle, by=_requester(reader)))


@router.get("/ws/subscribers/{aetitle}", summary="Not offered: events over WebSocket", responses=_problems(501))
def open_event_channel(aetitle: str, reader: WorkItemUser) -> Response:
    """Answered with 501: subscribe an AE instead."""
    raise HTTPException(501, "events are not sent over WebSocket; subscribe an AE, it gets N-EVENT-REPORT")


def _answer(answer: Answer, words: str = "", *, success: int = 200, conflict_is_bad: bool = False) -> Response:
    """Return the HTTP status that says the same, with the words that the standard wants in the Warning header."""
    status = answer.status
    words = words or _WARNINGS.get(status, "")
    if not answer.is_failure:
        return Response(status_code=success, headers={"Warning": _warning(words)} if words else None)
    code = _HTTP.get(status) or (400 if conflict_is_bad or status in _BAD_REQUEST else 409)
    words = words or f"{ups_states.WORDS.get(status, 'The request failed')}."
    tags = f" {', '.join(str(tag) for tag in answer.tags)}" if answer.tags else ""
    raise HTTPException(code, f"{words}{tags}", headers={"Warning": _warning(words)})


def _warning(words: str) -> str:
    return f"299 {SERVICE}: {words}"


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _requester(reader: Person) -> Requester:
    return Requester(reader.name)


def _bare(request: Request, name: str) -> str:
    """Return a UID that stands alone after the question mark, as the standard writes it, or under a name."""
    named = request.query_params.get(name, "")
    if named:
        return named
    bare = [key for key, value in request.query_params.multi_items() if not value and key[:1].isdigit()]
    return bare[0] if bare else ""
