"""What a part of a cohort can tell: sets of cases, each with whose labels it is held against and its caution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.cohorts import Case, Cohort
from trainer.predictor import Scores

# Of a reference standard that saw a few images only, no set is made.
FEWEST = 10

# Other readers whose labels a finding may be held against, and what they say. For evaluation only, by their terms.
_READERS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "pneumonia": (
        ("rsna-readers", "rsna", "RSNA radiologists: Lung Opacity against none"),
        ("google-readers", "google_airspace_opacity", "Google's radiologists: airspace opacity against none"),
    ),
    "abnormal": (("rsna-readers", "rsna_abnormal", "RSNA radiologists: anything else against Normal"),),
}


@dataclass(frozen=True)
class EvaluationSet:
    """A set of cases to measure on: which, against whose labels, and the sentence that says so.

    `labels` is (n,), 1 present, 0 absent; cases without a label are not in the set.
    """

    name: str
    says: str
    scored: Scores
    labels: np.ndarray

    def chosen(self, keep: Sequence[bool] | np.ndarray) -> "EvaluationSet":
        return EvaluationSet(self.name, self.says, self.scored.chosen(keep), self.labels[np.asarray(keep, bool)])


def labelled_set(name: str, says: str, scored: Scores, finding: str, reference: str = "") -> EvaluationSet:
    """Return the cases that have a label of the finding, or of another reader where `reference` names one."""

    def label(case: Case) -> float:
        return case.references.get(reference, math.nan) if reference else case.labels.get(finding, math.nan)

    labels = np.array([label(case) for case in scored.cases], np.float64)
    known = ~np.isnan(labels)
    return EvaluationSet(name, says, scored.chosen(known), labels[known])


def evaluation_sets(cohort: Cohort, scored: Scores, finding: str, part: str = "test") -> list[EvaluationSet]:
    """Return the sets that a part of a cohort gives; the first is the one that criteria are about."""
    sets = []
    cases = scored.cases
    if part != "test":
        sets.append(
            labelled_set(part, "Used to lock calibration and threshold: not an independent figure.", scored, finding)
        )
    elif cohort.name == "kermany":
        says = "The official Kermany test part: never learned from, no threshold settled on it, scored at each release."
        sets.append(labelled_set("official-test", says, scored, finding))
    elif cohort.name == "nih" and {case.subset for case in cases} >= {"internal", "official"}:
        sets += _nih_selection(scored, finding)
    elif cohort.name == "nih":
        says = "The official NIH test part (test_list.txt): sicker and later images than the train part's."
        sets.append(labelled_set("official-test", says, scored, finding))
    else:
        sets.append(labelled_set("test", f"The test part of {cohort.title}.", scored, finding))
    for name, reference, says in _READERS.get(finding, ()):
        item = labelled_set(name, f"The {part} images that other readers labelled. {says}.", scored, finding, reference)
        if min((item.labels == 1).sum(), (item.labels == 0).sum()) >= FEWEST:
            sets.append(item)
    return sets


def _nih_selection(scored: Scores, finding: str) -> list[EvaluationSet]:
    official = np.array([case.subset == "official" for case in scored.cases])
    internal = labelled_set(
        "internal-test",
        "Patients of the official train_val part, held out by patient; labels from the NIH reports.",
        scored.chosen(~official),
        finding,
    )
    outside = labelled_set("official-test", "Patients of the official NIH test part.", scored.chosen(official), finding)
    if (outside.labels == 0).sum() >= FEWEST:
        return [
            labelled_set(
                "test", "All test patients, of the official test part and held out of train_val.", scored, finding
            ),
            internal,
            outside,
        ]
    return [
        internal,
        EvaluationSet(
            outside.name,
            f"{outside.says} Hardly any of the images at hand is without the finding: sensitivity only.",
            outside.scored,
            outside.labels,
        ),
        labelled_set(
            "pooled-test",
            "Both test sets together. The official test patients are a sicker group, so part of this AUC may be the "
            "group and not the finding.",
            scored,
            finding,
        ),
    ]
