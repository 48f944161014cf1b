"""Held against labels: sets of cases, figures with intervals, baselines, and the file that reports are made from."""

from trainer.evaluate.baselines import Baseline, baselines
from trainer.evaluate.measure import TOO_FEW, at_threshold, beside_baseline, measure, predictive_values
from trainer.evaluate.run import evaluate
from trainer.evaluate.sets import EvaluationSet, evaluation_sets, labelled_set

__all__ = [
    "TOO_FEW",
    "Baseline",
    "EvaluationSet",
    "at_threshold",
    "baselines",
    "beside_baseline",
    "evaluate",
    "evaluation_sets",
    "labelled_set",
    "measure",
    "predictive_values",
]
