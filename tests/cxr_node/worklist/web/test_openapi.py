"""The API does what its description says, and no input of any route ends in an error of the server."""

import http.client
import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
import pytest
import schemathesis
from fastapi.dependencies.models import Dependant
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cxr_node.worklist.services import make_services
from cxr_node.worklist.web.app import create_app
from storage import tokens
from tests.department import Department
from tests.pages import routes_of

SECRET = "s" * 40
BEARER = {"Authorization": f"Bearer {SECRET}"}
EXAMPLES = 5  # of each operation and kind of data
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# It says that WebSocket is not spoken: 501 is what PS3.18 asks for.
NOT_IMPLEMENTED = "/dicom-web/ws/subscribers/{aetitle}"
ODD = ("\0", "a\0b", "%ED%A0%80", "..%2f..%2fetc%2fpasswd", "9" * 400, "-1", "1e400", "x" * 3000, "\u202e\x1b[2J", "")
ODD_JSON = (None, 0, -1, 2**63, 10**30, 1e308, "", "\0", "\ud800", "x" * 3000, [], {}, [[[]]], True, "2026-13-45")
ENDLESS = {"/events"}  # an open stream answers for as long as it is listened to


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    """A node with something of everything, and a token that may do everything."""
    opened = Department(tmp_path_factory.mktemp("department"))
    opened.furnish()
    with opened.database.begin() as connection:
        tokens.create(connection, "fuzzer", "admin", now=opened.clock.now, secret=SECRET)
    opened.start()
    yield opened
    opened.stop()


@pytest.mark.requirement("SRS-WEB-001")
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_operation_answers_as_its_description_says(department, mode):
    """Data that fits the description, and data that does not: answers are declared, of that shape, and never 500."""
    schema = schemathesis.openapi.from_dict(httpx.get(f"{department.url}/openapi.json", headers=BEARER).json())
    schema.config.update(base_url=department.url)
    found: list[str] = []
    answered: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in ENDLESS:
            continue

        def ask(case: schemathesis.Case) -> None:
            case.headers = {**(case.headers or {}), **BEARER}
            if "wait_s" in (case.query or {}):
                case.query["wait_s"] = 0
            answer = case.call(timeout=60)
            answered[answer.status_code] += 1
            if answer.status_code == 501 and case.operation.path == NOT_IMPLEMENTED:
                return
            case.validate_response(answer, checks=CHECKS)

        bounded = settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                bounded(given(operation.as_strategy(generation_mode=mode))(ask))()
            except Unsatisfiable:  # it has no input that could be wrong
                continue
            except FailureGroup as failures:
                found += [f"{operation.method.upper()} {operation.path}: {error}" for error in failures.exceptions]
    assert found == [], "\n\n".join(found)
    assert answered[200] > 20 or mode is GenerationMode.NEGATIVE
    assert answered[422] > 20 or mode is GenerationMode.POSITIVE


def _names(dependant: Dependant, where: str) -> set[str]:
    """Return what the parameters of a route are called, those of its models and its dependencies too."""
    found = set[str]()
    for field in getattr(dependant, where):
        found |= set(getattr(field.field_info.annotation, "model_fields", ())) or {field.alias}
    return found.union(*(_names(further, where) for further in dependant.dependencies))


def _odd_requests(route: Any) -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """Yield method, path with query, headers and body: every value the same odd one."""
    in_query, in_body = _names(route.dependant, "query_params"), _names(route.dependant, "body_params")
    method = sorted(route.methods)[0]
    for odd in ODD:
        path = route.path
        for name in re.findall(r"\{(\w+)", route.path):
            place = rf"\{{{name}(:\w+)?\}}"
            path = re.sub(place, lambda _: quote(odd, safe="%") or "%20", path)  # noqa: B023 - called at once
        query = urlencode(dict.fromkeys(in_query, odd))
        fields = dict.fromkeys(in_body or {"login", "password"}, odd)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        yield method, f"{path}?{query}", form, urlencode(fields).encode()
    sound = re.sub(r"\{\w+(:\w+)?\}", "1", route.path)
    if method == "GET":
        return
    for odd_json in ODD_JSON if in_body else ODD_JSON[:2]:
        for body in (odd_json, dict.fromkeys(in_body, odd_json), {**dict.fromkeys(in_body, "1"), "more": odd_json}):
            yield method, sound, {"Content-Type": "application/json"}, json.dumps(body).encode()
    for kind in ("application/json", "application/dicom+json", "multipart/form-data; boundary=x", "image/png", "\xff"):
        yield method, sound, {"Content-Type": kind}, b"\xff\xfe\0{[" * 20


@pytest.mark.requirement("SRS-WEB-002")
def test_no_route_fails_on_odd_input(department):
    """Pages and API alike: NUL, broken UTF-8, lone surrogates, numbers without end, paths out of the folder."""
    app = create_app(make_services(department.settings, department.database, department.clock))
    routes = [route for route in routes_of(app) if route.path not in ENDLESS]
    assert len(routes) > 20
    failed, connection = [], http.client.HTTPConnection(urlsplit(department.url).netloc, timeout=60)
    for route in routes:
        for method, target, headers, body in _odd_requests(route):
            connection.request(method, target, body, {**BEARER, **headers})
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 500:
                connection.close()  # the server did
            if answer.status >= 500 and route.path != NOT_IMPLEMENTED:
                failed.append(f"{answer.status} {method} {target[:90]} {headers} {body[:60]!r}")
    assert failed == [], "\n".join(failed)


@pytest.mark.requirement("SRS-WEB-005")
def test_an_answer_on_a_kept_connection_waits_for_no_acknowledgement(department):
    """With Nagle's algorithm the body of every answer but the first would wait 40 ms for the other side's delayed
    acknowledgement: a second, for a page of two dozen parts."""
    connection = http.client.HTTPConnection(urlsplit(department.url).netloc, timeout=60)
    took = []
    for _ in range(12):
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        took.append(time.perf_counter() - began)
    assert min(took[1:]) < 0.03
