"""What putting flagged studies first does to waiting times: closed form, simulation, repeated with intervals.

Values in, values out: no clock, no storage. Times are minutes. A wait is the time from arrival to the end of the
reading less the reading itself, so an interruption counts as waiting.
"""

from cxr_node.findings.triage.arrivals import Arrivals, Day, Given, Poisson, hours_of, rate_for_load
from cxr_node.findings.triage.closed_form import Accuracy, Discipline, Waits, closed_form
from cxr_node.findings.triage.experiment import Estimate, Outcome, Scenario, Service, run
from cxr_node.findings.triage.queue import Reading, Studies, simulate

__all__ = [
    "Accuracy",
    "Arrivals",
    "Day",
    "Discipline",
    "Estimate",
    "Given",
    "Outcome",
    "Poisson",
    "Reading",
    "Scenario",
    "Service",
    "Studies",
    "Waits",
    "closed_form",
    "hours_of",
    "rate_for_load",
    "run",
    "simulate",
]
