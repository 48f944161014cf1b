"""Every page of the node, with who looks at it; the tests that walk all pages walk these."""

import re
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from tests.department import Department
from tests.department_site import TRIED

# "" is nobody who signed in. A new route or place that is not here fails a test.
PAGES = {
    "/login": "",
    "/account": "reader",
    "/": "reader",
    "/?state=flagged": "reader",
    "/studies/{flagged}": "reader",
    "/studies/{excluded}": "admin",
    "/drop": "reader",
    "/admin": "admin",
    "/admin/senders": "admin",
    "/admin/senders/allow?rejected=1": "admin",
    "/admin/destinations": "admin",
    "/admin/destinations/pacs/failed": "admin",
    "/admin/jobs": "admin",
    "/admin/jobs/1/dismiss": "admin",
    "/admin/rules": "admin",
    "/admin/models": "admin",
    "/admin/models/pneumonia-adult": "admin",
    "/admin/models/pneumonia-adult/plan?state=off": "admin",
    "/admin/charts": "admin",
    "/admin/retention": "admin",
    "/admin/users": "admin",
    "/admin/audit": "auditor",
    f"/drop/results?key={TRIED}": "admin",
    "/admin/health": "admin",
    "/list": "reader",
    "/docs": "reader",
    "/no-such-page": "reader",
}
# Answers to a browser that are no page of their own: parts of pages, data, redirects.
NO_PAGES = {
    *("/events", "/admin/rules/trace", "/openapi.json"),
    *("/admin/charts.csv", "/admin/audit.csv"),
    *("/studies/{study_instance_uid:path}/next", "/account/password", "/account/sessions/{session_id}/end"),
    *("/admin/tokens", "/admin/tokens/{token_id}/revoke", "/admin/users/{user_id}/{action}"),
    "/studies/{study_instance_uid:path}/state",
    *("/login/oidc", "/login/oidc/callback", "/login/oidc/logout"),
}


def is_looked_at(route: str) -> bool:
    """Whether the path of a route, with parameters in braces, is that of a page above."""
    pattern = re.compile(re.sub(r"\\\{[^}]*\}", "[^/?]+", re.escape(route)) + r"(\?.*)?")
    return route in NO_PAGES or any(pattern.fullmatch(page) for page in PAGES)


# Parts of pages, which the page itself fetches.
PARTS = {f"/drop/results?key={TRIED}", "/admin/health", "/list"}


def address(department: Department, path: str) -> str:
    """Return where a page is, with the studies of the department in the place of their names."""
    flagged, excluded = (quote(department.uids[number], safe="") for number in (0, 4))
    return department.url + path.format(flagged=flagged, excluded=excluded)


def status_of(path: str) -> int:
    """Return what the page is answered with."""
    return 404 if path == "/no-such-page" else 200


def routes_of(app: FastAPI) -> list[Any]:
    """Return every route of the application with its whole path; those of mounted folders apart."""
    return [route for route in iter_route_contexts(app.routes) if hasattr(route, "dependant")]
