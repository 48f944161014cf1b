"""The pages and the API of operations, as one list for the application."""

from cxr_node.worklist.web import jobs_api, models_api, statistics_api
from cxr_node.worklist.web.admin import (
    audit_page,
    charts_page,
    destinations_page,
    jobs_page,
    models_page,
    retention_page,
)

ROUTERS = (
    destinations_page.router,
    jobs_page.router,
    jobs_api.router,
    models_page.router,
    models_api.router,
    charts_page.router,
    statistics_api.router,
    retention_page.router,
    audit_page.export_router,
    audit_page.router,
)
