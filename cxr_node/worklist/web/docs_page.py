"""The API described on a page."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

from cxr_node.worklist.web.access import Monitor
from cxr_node.worklist.web.rendering import render

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def openapi(request: Request, _: Monitor) -> JSONResponse:
    """The OpenAPI document itself."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
def docs(request: Request, _: Monitor) -> HTMLResponse:
    """The API in a page, from its OpenAPI document; nothing is loaded from elsewhere."""
    schema = request.app.openapi()
    return render(
        request,
        "docs.html",
        paths=schema["paths"],
        schemas=schema["components"]["schemas"],
    )
