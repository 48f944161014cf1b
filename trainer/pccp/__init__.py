"""The predetermined change control plan, run: may this model package replace that one without a new submission?"""

from trainer.pccp.plan import Plan, PlanError, load_plan
from trainer.pccp.verify import SCHEMA, Verdict, Verification, lines, to_json, verify

__all__ = ["SCHEMA", "Plan", "PlanError", "Verdict", "Verification", "lines", "load_plan", "to_json", "verify"]
