"""The result in words for a person, for card and page. Case level: no probability, no place, never an absence."""

from dataclasses import dataclass

from cxr_node.findings import Score
from cxr_node.reporting.material import Material

NOTICES = (
    "Preliminary automated result. Not reviewed by a physician.",
    "Research prototype, not cleared for clinical use. Not for diagnosis.",
    "A study that is not flagged may still be abnormal.",
)
MOST_REASONS = 4


@dataclass(frozen=True)
class Statement:
    """`headline` is what a glance takes in; `sentences` say the rest; `models` name what ran, with version."""

    headline: str
    sentences: tuple[str, ...]
    models: tuple[str, ...]


def state(material: Material) -> Statement:
    """Return what is said of the study."""
    outcome = material.outcome
    excluded, total = len(outcome.exclusions), len(outcome.images)
    sentences: list[str] = []
    if outcome.flagged:
        headline = "FLAGGED FOR PRIORITISED READING"
        named = sorted({score.finding for score in outcome.findings if score.flagged})
        sentences.append(f"Suspected: {', '.join(named)}.")
    elif material.was_flagged:
        headline = "PRIORITY KEPT"
        sentences.append(
            "An earlier revision flagged this study for prioritised reading. This revision does not, "
            "and the priority stays as it was raised."
        )
    elif excluded == total:
        headline = "NOT ANALYSED"
        sentences.append("The AI says nothing of this study. Read it in its ordered priority.")
    elif excluded:
        headline = "NOT FULLY ANALYSED"
        sentences.append("Read the study in its ordered priority.")
    else:
        headline = "NOT FLAGGED"
        sentences.append("No image crossed an operating point. This does not say that disease is absent.")
    if excluded:
        reasons = sorted({item.exclusion.message for item in outcome.exclusions if item.exclusion is not None})
        counted = "Not analysed" if excluded == total else f"{excluded} of {total} images not analysed"
        sentences += [f"{counted}: {reason}." for reason in reasons[:MOST_REASONS]]
        if len(reasons) > MOST_REASONS:
            sentences.append(f"And {len(reasons) - MOST_REASONS} more reasons: see the structured report.")
    sentences += [f"{note}." for note in outcome.notes]
    return Statement(headline, tuple(sentences), models_of(outcome.findings))


def models_of(scores: tuple[Score, ...]) -> tuple[str, ...]:
    """Return the models with version, each once."""
    return tuple(sorted({f"{score.model} {score.model_version}" for score in scores}))
