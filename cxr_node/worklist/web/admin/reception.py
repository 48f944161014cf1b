"""The pages and the API of health and senders, as one list for the application."""

from cxr_node.worklist.web.admin import health_api, health_page, senders_api, senders_page

ROUTERS = (health_page.router, health_api.router, senders_page.router, senders_api.router)
