"""The stage that looks at images: gate, pixels, models, study outcome, report. See `stage.run_analyze`."""

from cxr_node.analyze.acceptance import ACCEPTANCE, Rule, judge_header
from cxr_node.analyze.analyzer import Analyzer
from cxr_node.analyze.stage import load_packages, run_analyze

__all__ = ["ACCEPTANCE", "Analyzer", "Rule", "judge_header", "load_packages", "run_analyze"]
