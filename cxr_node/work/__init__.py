"""Claim a job, run it, settle it. The only place that acts on an error's disposition."""

from cxr_node.work.decision import Drop, Fail, Retry, decide
from cxr_node.work.worker import Handler, Outcome, Settlement, Worker

__all__ = ["Drop", "Fail", "Handler", "Outcome", "Retry", "Settlement", "Worker", "decide"]
