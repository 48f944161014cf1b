"""Heat maps of flagged images, for the objects that show them. Profile `research` only: none is ever made in `triage`.

A map costs as many scores as `saliency.SCORES` says, so a study has at most `MOST_IMAGES`, of the highest
probabilities. A map that cannot be made is left out: it must not cost the study its result.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from cxr_node.analyze.acceptance import Profile
from cxr_node.analyze.analyzer import Analyzed, Analyzer
from cxr_node.analyze.prepare import Lent, opened
from cxr_node.errors import CxrNodeError
from cxr_node.findings import Score
from cxr_node.imaging import preprocess, radiograph_from_dicom_file
from cxr_node.inference import occlusion_sensitivity
from cxr_node.log import get_logger

log = get_logger("analyze")

SHOWN_IN = frozenset({"sc", "gsps"})
MOST_IMAGES = 2
_LONGEST_SIDE = 1024  # of the radiographs that are kept for the card


@dataclass(frozen=True)
class HeatMaps:
    """By SOP Instance UID: maps over the whole image, and the radiographs they lie over, maybe reduced."""

    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    radiographs: Mapping[str, np.ndarray] = field(default_factory=dict)


def heat_maps(
    analyzer: Analyzer,
    analyzed: Sequence[Analyzed],
    files: Sequence[Lent],
    *,
    profile: Profile,
    kinds: Collection[str],
) -> HeatMaps:
    """Return the maps of a study's flagged images, nothing where no object shows them.

    Parameters
    ----------
    files : the images, in the order of `analyzed`
    kinds : of objects that some destination is sent
    """
    if profile != "research" or not SHOWN_IN.intersection(kinds):
        return HeatMaps()
    flagged = [(item, lent, score) for item, lent in zip(analyzed, files, strict=True) if (score := _highest(item))]
    maps: dict[str, np.ndarray] = {}
    radiographs: dict[str, np.ndarray] = {}
    for item, lent, score in sorted(flagged, key=lambda found: -found[2].probability)[:MOST_IMAGES]:
        uid = item.prepared.image.sop_instance_uid
        try:
            with opened(lent) as path:
                made = _made(analyzer, item, path, score)
        except (CxrNodeError, OSError) as error:
            log.warning("heat_map_not_made", sop_instance_uid=uid, error_type=type(error).__name__)
            continue
        if made is not None:
            maps[uid], radiographs[uid] = made
    return HeatMaps(maps, radiographs)


def _highest(item: Analyzed) -> Score | None:
    flagged = [score for score in item.analysis.scores if score.flagged]
    return max(flagged, key=lambda score: score.probability) if flagged else None


def _made(analyzer: Analyzer, item: Analyzed, path: Path, score: Score) -> tuple[np.ndarray, np.ndarray] | None:
    package = next(package for package in item.prepared.packages if package.digest == score.model_digest)
    # Decoded anew: where scores were known from before, nothing was.
    radiograph = radiograph_from_dicom_file(path)
    found = occlusion_sensitivity(
        analyzer.engine(package).scores,
        preprocess(radiograph, package.manifest.preprocess),
        package.manifest.findings.index(score.finding),
        (radiograph.rows, radiograph.columns),
    )
    return None if found is None else (found, _reduced(radiograph.grayscale))


def _reduced(grayscale: np.ndarray) -> np.ndarray:
    scale = _LONGEST_SIDE / max(grayscale.shape)
    if scale >= 1:
        return grayscale
    rows, columns = (max(1, round(length * scale)) for length in grayscale.shape)
    return cv2.resize(grayscale, (columns, rows), interpolation=cv2.INTER_AREA)
