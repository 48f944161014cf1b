"""Which images of a study objects refer to: all, or where thousands were excluded, as many as say something."""

from cxr_node.findings import Exclusion, ImageAnalysis, StudyOutcome

# Most excluded images that a report lists one by one. Beyond it, images excluded for the same reason are one entry with
# their number, and only the first of them is referred to: a CT of ten thousand slices says one thing of itself.
MOST_LISTED = 64


def exclusion_groups(outcome: StudyOutcome) -> list[list[ImageAnalysis]]:
    """Return the excluded images as the report lists them: each alone, or those of one reason together where there are
    more than `MOST_LISTED`."""
    excluded = outcome.exclusions
    if len(excluded) <= MOST_LISTED:
        return [[item] for item in excluded]
    groups: dict[Exclusion | None, list[ImageAnalysis]] = {}
    for item in excluded:
        groups.setdefault(item.exclusion, []).append(item)
    found = list(groups.values())
    if len(found) <= MOST_LISTED:
        return found
    # Every image has a value of its own: what they have in common is the reason.
    by_reason: dict[str, list[ImageAnalysis]] = {}
    for item in excluded:
        by_reason.setdefault(item.exclusion.reason if item.exclusion else "", []).append(item)
    return list(by_reason.values())


def images_referred_to(outcome: StudyOutcome) -> tuple[ImageAnalysis, ...]:
    """Return the images that the report refers to, in the order of the study: all, or all but those that an excluded
    one of the same reason stands for."""
    if len(outcome.exclusions) <= MOST_LISTED:
        return outcome.images
    standing = {group[0].image for group in exclusion_groups(outcome)}
    return tuple(item for item in outcome.images if item.exclusion is None or item.image in standing)
