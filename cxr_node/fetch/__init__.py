"""Query/retrieve SCU: studies fetched on request from a system that has them, for back-catalogue runs."""

from cxr_node.fetch.query import Query, parse_dates
from cxr_node.fetch.run import Runner
from cxr_node.fetch.sources import make_source

__all__ = ["Query", "Runner", "make_source", "parse_dates"]
