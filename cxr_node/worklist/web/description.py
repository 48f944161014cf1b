"""The description of the API (OpenAPI): what every operation may answer besides what it says itself."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel


class ProblemBody(BaseModel):
    """Why there is no answer."""

    detail: str


OPEN = frozenset({"/healthz", "/readyz"})  # ask nobody who they are, and touch nothing that could refuse
_ANY = {
    "400": "the body cannot be read",
    "401": "a token is needed",
    "403": "the role may not, or the request comes from a page of another origin",
    "421": "where nobody has to sign in: the Host header names another machine",
    "503": "the database does not answer; try again",
}


def describe(app: FastAPI) -> None:
    """Let the description say of every operation what the dependencies and handlers of all routes may answer."""
    made_by_routes = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made_by_routes()
            schema["components"]["schemas"].setdefault("ProblemBody", ProblemBody.model_json_schema())
            content = {"application/json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
            for path, operations in schema["paths"].items():
                for operation in operations.values() if path not in OPEN else ():
                    for code, description in _ANY.items():
                        answer = {"description": description, "content": content}
                        operation["responses"].setdefault(code, answer)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]  # as FastAPI's documentation has it
