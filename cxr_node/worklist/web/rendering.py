"""Pages from templates: what every page carries, and that every value is escaped."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cxr_node import __version__
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Person
from cxr_node.worklist.web.permissions import Permission

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Place:
    """An entry of the navigation."""

    href: str
    label: str
    permission: Permission


PLACES = (
    Place("/", "Worklist", Permission.READ_STUDIES),
    Place("/drop", "Try images", Permission.TRY_IMAGES),
    Place("/admin", "Admin", Permission.ADMINISTER),
    Place("/admin/audit", "Audit trail", Permission.READ_AUDIT),
)
# Shown as a second line on every page below /admin.
ADMIN_PLACES = (
    Place("/admin", "Health", Permission.ADMINISTER),
    Place("/admin/senders", "Senders", Permission.ADMINISTER),
    Place("/admin/destinations", "Destinations", Permission.ADMINISTER),
    Place("/admin/jobs", "Failed jobs", Permission.ADMINISTER),
    Place("/admin/rules", "Acceptance rules", Permission.ADMINISTER),
    Place("/admin/models", "Models", Permission.ADMINISTER),
    Place("/admin/charts", "Charts", Permission.ADMINISTER),
    Place("/admin/retention", "Retention", Permission.ADMINISTER),
    Place("/admin/users", "Users and tokens", Permission.ADMINISTER),
    Place("/admin/audit", "Audit trail", Permission.READ_AUDIT),
)

# Control characters but tab and line ends, halves of surrogate pairs, and marks that turn the direction of text.
_UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _finalize(value: Any) -> Any:
    """Return what is written for a value: the last lock, where a page forgot `present.shown`."""
    return _UNSHOWN.sub("\ufffd", value) if type(value) is str else value


_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_finalize,
)


def render(request: Request, template: str, status_code: int = 200, **values: Any) -> HTMLResponse:
    """Return a page as an answer; every value is escaped.

    A template has besides `values`: `person` (None where nobody signed in), `csrf_token`, `places`, `admin_places`,
    `path`, `banner`, `station`, `profile`, `version`.
    """
    return HTMLResponse(render_text(request, template, **values), status_code=status_code)


def opened_alone(request: Request, page: str) -> RedirectResponse | None:
    """Return the way to the whole page where a browser opens a part of one by its address, None else.

    Source: W3C Fetch Metadata Request Headers, 2.2 (Sec-Fetch-Mode).
    """
    if request.headers.get("sec-fetch-mode") != "navigate":
        return None
    return RedirectResponse(f"{page}?{request.url.query}" if request.url.query else page, status_code=303)


def render_text(request: Request, template: str, **values: Any) -> str:
    """Return a page or a part of one as text."""
    services: Services = request.app.state.services
    person: Person | None = getattr(request.state, "person", None)

    def granted(places: tuple[Place, ...]) -> list[Place]:
        if person is None or person.must_change:  # nothing else is open until the password is changed
            return []
        return [place for place in places if person.may(place.permission)]

    main = granted(PLACES)
    if any(place.href == "/admin" for place in main):
        main = [place for place in main if place.href != "/admin/audit"]  # among the admin's own places
    if not services.settings.worklist.drop.enabled:
        main = [place for place in main if place.href != "/drop"]
    return _environment.get_template(template).render(
        {
            "person": person,
            "csrf_token": person.csrf_token if person is not None else "",
            "places": main,
            "admin_places": granted(ADMIN_PLACES),
            "path": request.url.path,
            "banner": present.BANNER,
            "station": services.settings.node.station_name,
            "profile": services.settings.node.profile,
            "version": __version__,
            **values,
        }
    )
