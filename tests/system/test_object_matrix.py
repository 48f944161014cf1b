"""Every kind of result object of every kind of source, through the validators: no error, and a table that says so.

dciodvfy looks at every object. pixelmed takes long, and a content tree does not depend on pixels: it looks at each kind
of tree once, and the trees of all sources are held to be of those kinds.
"""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, EnhancedSRStorage, JPEG2000Lossless

from cxr_node.findings import Exclusion
from cxr_node.imaging import radiograph_from_dicom_file, read_header
from cxr_node.reporting import Assessment, as_class, build_feedback, encode
from tests.builders import (
    DEVICE,
    NOON,
    make_heat_map,
    make_material,
    make_objects,
    make_pixels,
    make_radiograph_dataset,
)
from tests.pixelmed import errors_in, pixelmed_outputs

pytestmark = pytest.mark.requirement("SRS-RPT-101")

LATERAL = Exclusion("view", "View Position is LL, expected PA or AP", "(0018,5101) View Position", "LL")
STRUCTURED = ("SR Storage", "Key Object Selection")
SOURCES_OWN = ("ReferencedSOPInstanceUID", "LUTData")

CHARACTER_SETS = {
    "latin-1": ("ISO_IR 100", "M\u00fcller^J\u00f6rg"),
    "japanese": (
        ["", "ISO 2022 IR 87"],
        "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
    ),
    "gb18030": ("GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c"),
    "utf-8 korean": ("ISO_IR 192", "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9"),
}


@dataclass(frozen=True)
class Source:
    """One kind of image; its material is of profile research, with a heat map."""

    kind: str = "DX"
    photometric: str = "MONOCHROME2"
    bits: int = 12
    syntax: str = "raw"
    characters: str = "latin-1"

    def __str__(self) -> str:
        return f"{self.kind} {self.photometric} {self.bits} bit {self.syntax}, {self.characters}"

    def dataset(self) -> Dataset:
        charset, name = CHARACTER_SETS[self.characters]
        dataset = make_radiograph_dataset(
            make_pixels(240, 200, bits_stored=self.bits),
            kind=self.kind,
            bits_stored=self.bits,
            PhotometricInterpretation=self.photometric,
            SpecificCharacterSet=charset,
            PatientName=name,
            StudyID="1",
            WindowCenter=str(2 ** (self.bits - 1)),
            WindowWidth=str(2**self.bits),
            ImagerPixelSpacing=["0.14", "0.14"],
            IssuerOfPatientID="HOSPITAL",
            RequestAttributesSequence=[_request()],
        )
        if self.syntax == "JPEG 2000":
            dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
        return dataset


def _request() -> Dataset:
    item = Dataset()
    item.RequestedProcedureID, item.RequestedProcedureDescription = "RP1", "Chest"
    item.ScheduledProcedureStepID = "S1"
    return item


SOURCES = [
    *(
        Source(kind, photometric, bits)
        for kind in ("CR", "DX", "SC")
        for photometric in ("MONOCHROME1", "MONOCHROME2")
        for bits in (8, 10, 12, 16)
    ),
    *(Source(kind, syntax="JPEG 2000", bits=bits) for kind in ("CR", "DX", "SC") for bits in (8, 12)),
    *(Source(characters=characters) for characters in CHARACTER_SETS if characters != "latin-1"),
]


def _objects(dataset: Dataset, **changes) -> dict[str, Dataset]:
    """Every object that the node makes of the image, by a name for the table."""
    made = make_objects(make_material(dataset, profile="research", **changes))
    report = made["sr"]
    found = dict(made)
    found["sr comprehensive"] = as_class(report, ComprehensiveSRStorage)
    found["sr enhanced"] = as_class(report, EnhancedSRStorage)
    assessment = Assessment("disagree", "pneumonia", "a nipple shadow", "dr-meier")
    found["feedback"] = build_feedback(assessment, report, device=DEVICE, content_time=NOON)
    return found


def _others(dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    """The objects of studies that came to something else."""
    second = make_radiograph_dataset(StudyInstanceUID=dataset.StudyInstanceUID, IssuerOfPatientID="HOSPITAL")
    for keyword in ("SpecificCharacterSet", "PatientName", "StudyID"):
        setattr(second, keyword, dataset.get(keyword))
    studies = {
        "triage flagged": make_material(dataset, second, exclusions={1: LATERAL}),
        "not flagged": make_material(dataset, probability=0.1),
        "excluded": make_material(dataset, exclusions={0: LATERAL}),
        "flag kept": make_material(dataset, probability=0.1, was_flagged=True, revision=2),
    }
    before = make_objects(studies["triage flagged"])
    studies["revised"] = replace(studies["triage flagged"], revision=2, predecessors=before)
    for name, material in studies.items():
        for kind, made in make_objects(material).items():
            yield f"{name} {kind}", made
    missed = Assessment("disagree", "pneumonia", "", "dr-meier")
    report = make_objects(studies["not flagged"])["sr"]
    first = build_feedback(missed, report, device=DEVICE, content_time=NOON)
    yield "missed feedback", build_feedback(missed, report, device=DEVICE, content_time=NOON, predecessor=first)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Every object of every source as a file, by source and name."""
    folder = tmp_path_factory.mktemp("matrix")
    paths: dict[tuple[str, str], Path] = {}

    def write(source: str, name: str, made: Dataset) -> None:
        path = folder / f"{len(paths):03d}.dcm"
        assert (source, name) not in paths
        path.write_bytes(encode(made))
        paths[source, name] = path

    for source in SOURCES:
        for name, made in _objects(source.dataset()).items():
            write(str(source), name, made)
    plain = Source().dataset()
    for name, made in _others(plain):
        write("other outcomes", name, made)
    bare = make_radiograph_dataset(
        **dict.fromkeys(("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyTime", "StudyDate"))
    )
    for name, made in _objects(bare).items():
        write("type 2 absent", name, made)
    return paths


def _dciodvfy(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.peer("dciodvfy")
@pytest.mark.timeout(300)
def test_dciodvfy_finds_no_error_in_any_object_of_any_source(matrix, capsys):
    """A PACS that checks what it takes refuses what has one."""
    with ThreadPoolExecutor(2) as pool:
        errors = dict(zip(matrix, pool.map(_dciodvfy, matrix.values()), strict=True))
    with capsys.disabled():
        print("\n" + _table({cell: len(found) for cell, found in errors.items()}))
    assert {cell: found for cell, found in errors.items() if found} == {}
    kinds = {"sc", "sr", "gsps", "kos", "pdf", "sr comprehensive", "sr enhanced", "feedback"}
    for source in SOURCES:
        assert {name for row, name in matrix if row == str(source)} == kinds


def _table(errors: dict[tuple[str, str], int]) -> str:
    """Return the errors of dciodvfy, sources down and objects across; other outcomes one a line."""
    rows = list(dict.fromkeys(source for source, _ in errors if source != "other outcomes"))
    names = list(dict.fromkeys(name for source, name in errors if source in rows))
    width = max(map(len, rows))
    lines = [f"{'errors of dciodvfy':{width}}  {'  '.join(names)}"]
    for row in rows:
        lines.append(f"{row:{width}}  {'  '.join(f'{errors[row, name]:>{len(name)}}' for name in names)}")
    lines += [f"{name:{width}}  {count}" for (row, name), count in errors.items() if row == "other outcomes"]
    return "\n".join(lines)


def _shape(item: Dataset) -> tuple[object, ...]:
    """What a content tree is to a template: value types, concepts, relationships; no values."""
    names = item.get("ConceptNameCodeSequence")
    concept = str(names[0].CodeValue) if names else ""
    children = tuple(_shape(child) for child in item.get("ContentSequence") or [])
    return str(item.get("RelationshipType", "")), str(item.ValueType), concept, children


@pytest.mark.peer("DicomSRValidator")
@pytest.mark.timeout(300)
def test_pixelmed_finds_no_error_in_any_kind_of_tree(matrix, capsys):
    """Templates and context groups; its exit status is always 0."""
    trees: dict[tuple[object, ...], tuple[str, Path]] = {}
    documents = 0
    for (source, name), path in matrix.items():
        made = dcmread(path)
        if any(text in made.SOPClassUID.name for text in STRUCTURED):
            documents += 1
            trees.setdefault((made.SOPClassUID, _shape(made)), (f"{source}: {name}", path))
    found = [errors_in(output) for output in pixelmed_outputs([path for _, path in trees.values()])]
    with capsys.disabled():
        print(f"\n{documents} documents are {len(trees)} kinds of tree; errors of pixelmed:")
        for (name, _), errors in zip(trees.values(), found, strict=True):
            print(f"{len(errors):3d}  {name}")
    assert [error for errors in found for error in errors] == []
    assert documents > 100
    assert 8 <= len(trees) <= 24, "a tree for every source would be more than pixelmed can look at here"


@pytest.mark.peer("dsrdump")
def test_dsrdump_reads_every_kind_of_document(matrix):
    """A second reader of the content trees."""
    for (source, name), path in matrix.items():
        if "12 bit raw" in source and name.split()[0] in ("sr", "kos", "feedback"):
            done = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, errors="replace")
            assert done.returncode == 0, (source, name, done.stderr)


@pytest.mark.real_data
@pytest.mark.peer("dciodvfy", "dcmp2pgm")
@pytest.mark.timeout(300)
def test_objects_of_real_radiographs_are_valid_and_shown_as_they_are(shared_data, tmp_path):
    """Real headers hold what no builder thinks of; under its state an image looks as without."""
    shown = 0
    for path in sorted((shared_data / "dicom").glob("*.dcm")):
        header = read_header(path)
        if header.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
            continue
        try:
            radiograph = radiograph_from_dicom_file(path)
        except Exception:  # noqa: BLE001 what does not decode is other tests' business
            continue
        dataset = dcmread(path, stop_before_pixels=True)
        material = make_material(make_radiograph_dataset())
        image = replace(
            material.outcome.images[0].image,
            sop_instance_uid=str(dataset.SOPInstanceUID),
            sop_class_uid=str(dataset.SOPClassUID),
            series_instance_uid=str(dataset.SeriesInstanceUID),
        )
        analysis = replace(material.outcome.images[0], image=image)
        outcome = replace(material.outcome, study_instance_uid=str(dataset.StudyInstanceUID), images=(analysis,))
        uid = image.sop_instance_uid
        material = replace(
            material,
            outcome=outcome,
            headers={uid: header},
            profile="research",
            heat_maps={uid: make_heat_map(radiograph.rows, radiograph.columns)},
            radiographs={uid: radiograph.grayscale},
        )
        for kind, made in make_objects(material).items():
            target = tmp_path / f"{path.stem}_{kind}.dcm"
            target.write_bytes(encode(made))
            # Some teaching files have illegal UIDs and tables: a reference that changed the one would lead nowhere, a
            # state that changed the other would show another image.
            errors = [line for line in _dciodvfy(target) if not any(own in line for own in SOURCES_OWN)]
            assert errors == [], (path.name, kind)
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated or not dataset.get("WindowCenter"):
            continue
        done = subprocess.run(
            ["dcmp2pgm", "--pstate", str(tmp_path / f"{path.stem}_gsps.dcm"), str(path), str(tmp_path / "out.pgm")],
            capture_output=True,
            text=True,
            errors="replace",
        )
        assert done.returncode == 0, (path.name, done.stderr)
        rendered = cv2.imread(str(tmp_path / "out.pgm"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 255
        assert np.corrcoef(rendered.ravel(), radiograph.grayscale.ravel())[0, 1] > 0.98, path.name
        shown += 1
    assert shown >= 3


@pytest.mark.peer("dciodvfy", "DicomSRValidator")
def test_the_matrix_would_show_an_error(tmp_path):
    """A validator that is called the wrong way finds nothing in anything."""
    made = make_objects(make_material())["sc"]
    del made.SamplesPerPixel
    (tmp_path / "broken.dcm").write_bytes(encode(made))
    assert _dciodvfy(tmp_path / "broken.dcm")
    made = make_objects(make_material())["kos"]
    made.ContentSequence[-1].ConceptNameCodeSequence = made.ConceptNameCodeSequence  # TID 2010 row 8 has none
    (tmp_path / "broken_kos.dcm").write_bytes(encode(made))
    (tmp_path / "sound_kos.dcm").write_bytes(encode(make_objects(make_material())["kos"]))
    sound, broken = map(errors_in, pixelmed_outputs([tmp_path / "sound_kos.dcm", tmp_path / "broken_kos.dcm"]))
    assert broken, "also after another file"
    assert sound == []
