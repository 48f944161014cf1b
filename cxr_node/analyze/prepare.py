"""From an instance to a model's input: gate, pixels, preprocessing. Loads no engine; `readers` runs it apart."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from cxr_node.analyze.acceptance import Profile, judge_header, shown, view_of
from cxr_node.analyze.routing import Route, age_at_study, route
from cxr_node.errors import UnreadableDataset, UnreadablePixels
from cxr_node.findings import Exclusion, ImageReference
from cxr_node.findings.monitoring.reference import Measures
from cxr_node.imaging import Radiograph, look_at, preprocess
from cxr_node.imaging.opened import OpenedImage, open_image
from cxr_node.imaging.plausibility import Seen
from cxr_node.inference import ModelPackage

# Scores known from an earlier look at the same image: package digest → finding → score before calibration.
KnownScores = Mapping[str, Mapping[str, float]]

# A file, or what lends one for a block: bytes that lie elsewhere, or encrypted, are fetched when the block is entered.
Lent = Path | contextlib.AbstractContextManager[Path]

PIXEL_DATA = "(7FE0,0010) Pixel Data"
# The look at the pixels takes a thumbnail: from a picture smaller than twice this its verdict may be another.
_LEAST_TARGET = 128


def opened(lent: Lent) -> contextlib.AbstractContextManager[Path]:
    """Return what lends the path."""
    return contextlib.nullcontext(lent) if isinstance(lent, Path) else lent


@dataclass(frozen=True)
class Prepared:
    """An image after gate and preprocessing: an exclusion, or for each package an input or known scores.

    `header` of an excluded image holds what a report tells of it, and nothing else.
    """

    image: ImageReference
    header: Dataset | None = None
    exclusion: Exclusion | None = None
    packages: tuple[ModelPackage, ...] = ()
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)  # by package digest
    known: KnownScores = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    measures: Measures | None = None  # of an image whose pixels were looked at


@dataclass(frozen=True)
class Wanted:
    """An image that is to be prepared."""

    file: Lent
    image: ImageReference
    known: KnownScores = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """What decides over an image: profile, packages, and whether JPEG 2000 is decoded at full resolution always.

    `told` are the attributes that a report tells of an excluded image, by keyword; all where it is empty.
    """

    profile: Profile
    packages: tuple[ModelPackage, ...]
    full_decode: bool = False
    told: tuple[str, ...] = ()

    def slim(self) -> "Gate":
        """Return it without what only people read, which is most of a package."""
        return dataclasses.replace(
            self,
            packages=tuple(
                dataclasses.replace(
                    package,
                    manifest=dataclasses.replace(package.manifest, training={}, figures={}, limitations=(), files={}),
                )
                for package in self.packages
            ),
        )

    def excluded(self, image: ImageReference, header: Dataset | None, exclusion: Exclusion) -> Prepared:
        """Return an image that nobody looks at, with as much of its header as is told: a study may have thousands."""
        if header is not None and self.told:
            whole, header = header, Dataset()
            for keyword in self.told:
                if keyword in whole:
                    header.add(whole[keyword])
        return Prepared(image, header, exclusion)


def admit(header: Dataset, profile: Profile, packages: Sequence[ModelPackage]) -> Route | Exclusion:
    """Return which packages an image goes to by its header, or why to none: acceptance rules first, then routing."""
    return judge_header(header, profile) or route(header, profile, packages)


def prepare_file(gate: Gate, path: Path, wanted: Wanted) -> Prepared:
    """Read, judge and preprocess one image.

    Raises
    ------
    OSError
        The file cannot be read: another try may succeed.
    """
    try:
        found = open_image(path)
    except UnreadableDataset as error:
        return Prepared(wanted.image, exclusion=Exclusion("unreadable-dataset", str(error)))
    routed = admit(found.header, gate.profile, gate.packages)
    if isinstance(routed, Exclusion):
        return gate.excluded(wanted.image, found.header, routed)
    if all(package.digest in wanted.known for package in routed.packages):
        return Prepared(wanted.image, found.header, None, routed.packages, known=dict(wanted.known), notes=routed.notes)
    try:
        radiograph = radiograph_for(found, routed, full_decode=gate.full_decode)
    except UnreadablePixels as error:
        return gate.excluded(wanted.image, found.header, Exclusion("unreadable-pixels", str(error), PIXEL_DATA))
    seen = look_at(radiograph)
    measures = measured(found.header, seen, gate.profile)
    if seen.exclusion is not None:
        return dataclasses.replace(gate.excluded(wanted.image, found.header, seen.exclusion), measures=measures)
    return dataclasses.replace(made(wanted.image, found.header, radiograph, routed), measures=measures)


def measured(header: Dataset, seen: Seen, profile: Profile) -> Measures:
    """Return what monitoring keeps of an image: a few words of its header and figures of its pixels."""
    age = age_at_study(header, profile)
    return Measures(
        age_years=None if age is None else float(int(age.years)),
        sex=shown(header.get("PatientSex")),
        view=view_of(header, profile)[0],
        modality=shown(header.get("Modality")),
        mean_gray=seen.mean_gray,
        contrast=seen.contrast,
        upright=seen.upright,
    )


def radiograph_for(found: OpenedImage, routed: Route, *, full_decode: bool) -> Radiograph:
    """Decode no more than the packages need, unless told to.

    Raises
    ------
    UnreadablePixels, OSError
        See `OpenedImage.radiograph`.
    """
    sizes = [package.manifest.preprocess.first_size for package in routed.packages]
    target = (max(_LEAST_TARGET, *(rows for rows, _ in sizes)), max(_LEAST_TARGET, *(columns for _, columns in sizes)))
    return found.radiograph(None if full_decode else target)


def prepare_radiograph(
    image: ImageReference, header: Dataset | None, radiograph: Radiograph, routed: Route
) -> Prepared:
    """Hold the pixels against what a chest looks like, and make the inputs of the packages it goes to."""
    exclusion = look_at(radiograph).exclusion
    if exclusion is not None:
        return Prepared(image, header, exclusion)
    return made(image, header, radiograph, routed)


def made(image: ImageReference, header: Dataset | None, radiograph: Radiograph, routed: Route) -> Prepared:
    """Return the image with its inputs of the packages it goes to."""
    inputs = {package.digest: preprocess(radiograph, package.manifest.preprocess) for package in routed.packages}
    return Prepared(image, header, None, routed.packages, inputs, notes=routed.notes)
