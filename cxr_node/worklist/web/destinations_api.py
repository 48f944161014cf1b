"""Destinations over HTTP, for admins: how each stands, and test, pause, resume, send again.

The stage that sends is another process: what is asked for here is written to storage, and that stage obeys.
"""

import time
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxr_node.settings import Destination
from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.description import ProblemBody
from storage import Doorbell, deliveries, destination_states, lanes
from storage.destination_states import Counts, DestinationState

POLL_S = 0.1


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DestinationBody(_Body):
    """A destination and how it stands."""

    name: str
    kind: str
    sends: list[str] = Field(description="kinds of objects it gets; `priority` is the notice of a study's priority")
    dry_run: bool
    state: Literal["sending", "resting", "paused"] = Field(
        description="resting: left alone until `resting_until` after failures; paused: by a person, until resumed"
    )
    paused_by: str
    failures: int = Field(description="in a row; 0 while it takes what is sent")
    resting_until: datetime | None
    waiting: int = Field(description="deliveries that are not there yet")
    failed: int = Field(description="deliveries that were given up; resend them once the cause is put right")
    delivered: int = Field(description="deliveries that arrived in the last 24 hours")
    last_success_at: datetime | None
    last_failure_at: datetime | None
    last_error: str = Field(description="what the last failure was, also where it is over")
    last_test_at: datetime | None
    last_test: str = Field(description="what the last test found wrong; empty: nothing, or there was no test")


class DestinationListBody(_Body):
    """All destinations, in the order of node.toml."""

    destinations: list[DestinationBody]


class ResendBody(_Body):
    """What to send again: everything that failed, or one delivery."""

    failed: bool = False
    delivery: int | None = Field(None, ge=1, description="`id` of a study's delivery")

    @model_validator(mode="after")
    def _one_of_both(self) -> "ResendBody":
        if self.failed == (self.delivery is not None):
            raise ValueError("expected either failed = true or a delivery")
        return self


class ResentBody(_Body):
    """How many deliveries are sent again."""

    resent: int


router = APIRouter(
    prefix="/api/destinations",
    tags=["destinations"],
    responses={
        401: {"model": ProblemBody, "description": "a token is needed"},
        403: {"model": ProblemBody, "description": "only the role admin may"},
        404: {"model": ProblemBody, "description": "node.toml has no destination of that name"},
        503: {"model": ProblemBody},
    },
)


@router.get("", summary="Where results go, and how each destination stands")
def list_destinations(request: Request, reader: Admin) -> DestinationListBody:
    """In the order of node.toml."""
    return bodies(request.app.state.services)


@router.get("/{name}", summary="One destination")
def read_destination(request: Request, reader: Admin, name: str) -> DestinationBody:
    """As in the list."""
    services: Services = request.app.state.services
    return body_of(services, named(services, name))


@router.post(
    "/{name}/test",
    summary="Say what would keep results from getting there",
    responses={202: {"model": DestinationBody, "description": "asked for; `last_test_at` tells when it was done"}},
)
def ask_test(
    request: Request,
    response: Response,
    reader: Admin,
    name: str,
    wait_s: Annotated[float, Query(ge=0, le=30, description="longest wait for the outcome, s")] = 10.0,
) -> DestinationBody:
    """The stage that sends makes the test; nothing is delivered by it. 200 with the outcome in `last_test`."""
    services: Services = request.app.state.services
    destination = named(services, name)
    if not test(services, name, by=reader.name, wait_s=wait_s):
        response.status_code = 202
    return body_of(services, destination)


@router.post("/{name}/pause", summary="Send nothing there until it is resumed")
def pause_destination(request: Request, reader: Admin, name: str) -> DestinationBody:
    """What is being sent is finished; everything else waits, over restarts too."""
    services: Services = request.app.state.services
    destination = named(services, name)
    with services.database.begin() as connection:
        lanes.pause(connection, name, by=reader.name, now=services.now())
    return body_of(services, destination)


@router.post("/{name}/resume", summary="Go on sending, at once")
def resume_destination(request: Request, reader: Admin, name: str) -> DestinationBody:
    """Also where it was not paused but left alone after failures."""
    services: Services = request.app.state.services
    destination = named(services, name)
    with services.database.begin() as connection:
        lanes.resume(connection, name, by=reader.name, now=services.now())
    ring(services)
    return body_of(services, destination)


@router.post(
    "/{name}/resend",
    summary="Send again what failed, or one delivery",
    responses={409: {"model": ProblemBody, "description": "that delivery is not sent again, and why"}},
)
def resend(request: Request, reader: Admin, name: str, body: ResendBody) -> ResentBody:
    """The same objects, the same bytes."""
    services: Services = request.app.state.services
    named(services, name)
    if body.delivery is None:
        number = lanes.resend_failed(services.database, name, by=reader.name, now=services.now())
    else:
        with services.database.begin() as connection:
            delivery = deliveries.get(connection, body.delivery)
            if delivery is None or delivery.destination != name:
                raise HTTPException(404, f"there is no delivery {body.delivery} to {name}")
            done = lanes.resend(connection, delivery.id, by=reader.name, now=services.now())
        if not done.is_sent:
            raise HTTPException(409, done.reason)
        number = 1
    ring(services)
    return ResentBody(resent=number)


def test(services: Services, name: str, *, by: str, wait_s: float) -> bool:
    """Have the stage that sends test the destination; return whether the outcome is there within that time."""
    asked_at = services.now()
    with services.database.begin() as connection:
        lanes.ask_test(connection, name, by=by, now=asked_at)
    ring(services)
    deadline = time.monotonic() + wait_s
    while True:
        with services.database.read() as connection:
            tested_at = destination_states.get(connection, name).last_test_at
        if tested_at is not None and tested_at >= asked_at:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)


def bodies(services: Services) -> DestinationListBody:
    """Return how all stand, in the order of node.toml."""
    now, listed = services.now(), services.settings.destination
    with services.database.read() as connection:
        counts = destination_states.counts(connection, now=now)
        states = [destination_states.get(connection, item.name) for item in listed]
    return DestinationListBody(
        destinations=[
            _told(item, state, counts.get(item.name, Counts()), now) for item, state in zip(listed, states, strict=True)
        ]
    )


def named(services: Services, name: str) -> Destination:
    """Return the destination; raises HTTPException 404 where there is none of that name."""
    for destination in services.settings.destination:
        if destination.name == name:
            return destination
    raise HTTPException(404, "node.toml has no destination of this name")


def ring(services: Services) -> None:
    """Wake who sends, and the pages."""
    for topic in ("deliver", "worklist"):
        Doorbell(services.settings.data_dir / "run", services.database).ring(topic)


def body_of(services: Services, destination: Destination) -> DestinationBody:
    """Return how the destination stands."""
    now = services.now()
    with services.database.read() as connection:
        state = destination_states.get(connection, destination.name)
        counts = destination_states.counts(connection, now=now).get(destination.name, Counts())
    return _told(destination, state, counts, now)


def _told(destination: Destination, state: DestinationState, counts: Counts, now: datetime) -> DestinationBody:
    return DestinationBody(
        name=destination.name,
        kind=destination.kind,
        sends=list(destination.sends),
        dry_run=destination.dry_run,
        state=_state(state, now),
        paused_by=state.paused_by,
        failures=state.failures,
        resting_until=state.resting_until,
        waiting=counts.waiting,
        failed=counts.failed,
        delivered=counts.delivered,
        last_success_at=state.last_success_at,
        last_failure_at=state.last_failure_at,
        last_error=state.last_error,
        last_test_at=state.last_test_at,
        last_test=state.last_test,
    )


def _state(state: DestinationState, now: datetime) -> Literal["sending", "resting", "paused"]:
    if state.paused:
        return "paused"
    return "resting" if state.resting_until is not None and state.resting_until > now else "sending"
