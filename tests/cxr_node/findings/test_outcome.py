"""What images say together."""

import pytest

from cxr_node.analyze.record import from_json, to_json
from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, Score, StudyOutcome, StudyStatus

pytestmark = pytest.mark.requirement("SRS-ANA-004")


def _score(probability: float, flagged: bool = False, model: str = "m") -> Score:
    return Score("pneumonia", model, "1", "d" * 64, probability, 0.5, "locked", flagged)


def _image(uid: str, *scores: Score, exclusion: Exclusion | None = None) -> ImageAnalysis:
    return ImageAnalysis(ImageReference(uid, "1.2", "1.3"), tuple(scores), exclusion)


LATERAL = Exclusion("view", "View Position is LL, expected PA or AP", "(0018,5101) View Position", "LL")


def test_a_study_takes_the_highest_image_of_each_model():
    """One clear image does not outvote the one with the finding."""
    outcome = StudyOutcome(
        "1", (_image("a", _score(0.2)), _image("b", _score(0.9, True)), _image("c", exclusion=LATERAL))
    )
    assert outcome.flagged
    assert outcome.status is StudyStatus.ANALYSED
    assert [score.probability for score in outcome.findings] == [0.9]
    assert [image.image.sop_instance_uid for image in outcome.exclusions] == ["c"]


def test_a_study_of_exclusions_is_not_analysed_and_not_flagged():
    """Silence must not look like a clear chest."""
    outcome = StudyOutcome("1", (_image("c", exclusion=LATERAL),))
    assert outcome.status is StudyStatus.NOT_ANALYSED
    assert not outcome.flagged


def test_an_image_is_either_scored_or_excluded():
    """Neither would be a hole, both a contradiction."""
    with pytest.raises(ValueError, match="exactly one"):
        _image("a")
    with pytest.raises(ValueError, match="exactly one"):
        _image("a", _score(0.1), exclusion=LATERAL)


def test_an_outcome_survives_its_json():
    """What the table keeps is the outcome, not a summary of it."""
    outcome = StudyOutcome("1", (_image("a", _score(0.25)), _image("c", exclusion=LATERAL)))
    assert from_json("1", to_json(outcome)) == outcome
