"""Figures, reports and slides from JSON made by hand: whole, with holes, and hostile."""

import copy
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pypdf
import pytest
from PIL import Image

from trainer.report.figures import draw_comparison, draw_evaluation, draw_grid, draw_overlays
from trainer.report.slides import people
from trainer.report.words import BANNER, NOT_MEASURED, estimate, of_hundred, percent
from trainer.report.write import ReportError, write_report

SETTLED = {"value": 0.9312, "low": 0.9011, "high": 0.9525, "n": 390}


def est(value: float, half: float = 0.02) -> dict:
    return {"value": value, "low": round(value - half, 4), "high": round(min(1.0, value + half), 4), "n": 624}


def measured_set() -> dict:
    bins = [{"mean": 0.1, "frequency": 0.12, "n": 200}, {"mean": 0.9, "frequency": 0.88, "n": 300}]
    quality = {"slope": 1.017, "intercept": -0.031, "brier": 0.0713, "expected_calibration_error": 0.0241, "bins": bins}
    group = {"present": 210, "absent": 120, "auc": est(0.951), "sensitivity": est(0.913), "specificity": est(0.874)}
    return {
        "says": "Made by hand.",
        "images": 624,
        "patients": 401,
        "present": 390,
        "absent": 234,
        "base_rate": 0.625,
        "auc": est(0.9623),
        "auc_patient_bootstrap": est(0.9618),
        "average_precision": est(0.9714),
        "accuracy": est(0.9022),
        "precision": est(0.9144),
        "sensitivity": SETTLED,
        "specificity": est(0.8504),
        "f1": 0.9227,
        "confusion": {"true_positive": 363, "false_positive": 35, "true_negative": 199, "false_negative": 27},
        "predictive_values": {"0.013": {"ppv": 0.0757, "npv": 0.9989}, "0.2": {"ppv": 0.6088, "npv": 0.9802}},
        "calibration": {"before": quality, "after": quality},
        "decision_curve": [{"threshold": t, "model": 0.08, "all": 0.1 - t} for t in (0.1, 0.2, 0.3)],
        "roc": [[0, 0], [0.15, 0.93], [1, 1]],
        "precision_recall": [[0, 1], [0.93, 0.91], [1, 0.62]],
        "histogram": {"edges": [0, 0.5, 1], "present": [27, 363], "absent": [199, 35]},
        "subgroups": {
            "sex": {"F": group, "M": group},
            "co_finding": {"effusion": {"present": 17, "absent": 234, "too_few": "17 with the finding, 30 needed"}},
        },
    }


def evaluation() -> dict:
    part = {"images": 3911, "patients": 2012, "present": 2903, "absent": 1008, "sha256": "ab" * 32}
    return {
        "schema": "cxr-train evaluation 1",
        "model": {"name": "drawn-model", "kind": "run", "architecture": "tiny", "parameters": 123456, "size": [24, 24]},
        "cohort": {
            "name": "kermany",
            "title": "Drawn paediatric cohort",
            "split_rule": "By patient.",
            "parts": {"train": part, "tune": {**part, "images": 702}, "test": {**part, "images": 624}},
            "problems": ["x.png: does not decode"],
        },
        "part": "test",
        "finding": "pneumonia",
        "operating_point": {
            "rule": "youden",
            "threshold": 0.4321,
            "sensitivity": 0.95,
            "specificity": 0.9,
            "source": "tune",
        },
        "calibration": {"slope": 1.25, "intercept": -0.125},
        "training": {
            "seed": 5,
            "log": [{"epoch": n, "loss": 1 / (n + 1), "tune_auc": 0.9 + n / 100, "tune_loss": 0.5} for n in range(4)],
        },
        "sets": {"official-test": measured_set(), "tune": {"says": "Bare.", "images": 12}},
        "main_set": "official-test",
        "baselines": {"file-size": {"says": "Bytes.", "auc": est(0.8231)}},
        "cross_population": {"nih": {"says": "Adults.", "images": 80, "auc": est(0.6412)}},
        "not_run": ["multi-reader study: not run"],
        "criteria": [{"says": "AUC at least 0.985", "found": 0.9623, "passed": False}],
    }


def comparison() -> dict:
    return {
        "schema": "cxr-train comparison 1",
        "title": "The ladder",
        "set": "official-test",
        "says": "The same images.",
        "rows": [
            {
                "name": "drawn-model",
                "kind": "ours",
                "says": "a run",
                "parameters": 123456,
                "auc": est(0.9623),
                "f1": 0.9227,
            },
            {"name": "file-size", "kind": "baseline", "says": "Bytes.", "auc": est(0.8231)},
            {
                "name": "seed MLP",
                "kind": "published",
                "says": "elsewhere",
                "accuracy": {"value": 0.7412},
                "source": "its report",
            },
        ],
        "paired": [
            {
                "a": "drawn-model",
                "b": "file-size",
                "figure": "auc",
                "difference": 0.1392,
                "low": 0.1011,
                "high": 0.1773,
                "p": 0.00001,
                "test": "DeLong",
            }
        ],
        "gate": {
            "model": "drawn-model",
            "says": "Lower limit above.",
            "passed": True,
            "found": "0.9423 above 0.8231",
            "best_baseline": "file-size",
        },
    }


def written(folder: Path, **records: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        (folder / f"{name}.json").write_text(json.dumps(record), "utf-8")
    return folder


def text_of(path: Path) -> str:
    """The words of a PDF; line breaks are spaces, as a cell may break anywhere."""
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in pypdf.PdfReader(path).pages))


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    written(folder / "a", evaluation=evaluation())
    written(folder / "b", comparison=comparison())
    return write_report([folder / "a", folder / "b"], folder / "out")


def holes(record: dict):
    """Every record that lacks one key, on any of the two upper levels, or of a set; and those with null there."""
    for key in record:
        if key == "schema":
            continue
        yield {name: value for name, value in record.items() if name != key}
        yield {**record, key: None}
    for key in record.get("sets", {}).get("official-test", {}):
        bare = copy.deepcopy(record)
        del bare["sets"]["official-test"][key]
        yield bare


@pytest.mark.requirement("SRS-TRN-215")
def test_every_figure_of_a_complete_evaluation_is_drawn_and_labelled_by_its_set(tmp_path):
    """A figure that is silently left out is a result that is left out."""
    drawn = draw_evaluation(evaluation(), tmp_path)
    kinds = ("roc", "precision-recall", "confusion", "histogram", "reliability", "decision-curve", "subgroups")
    assert set(drawn) == {"learning-curves", "auc-by-set", *(f"official-test-{kind}" for kind in kinds)}
    assert set(draw_comparison(comparison(), tmp_path)) == {"ladder"}
    for path in drawn.values():
        with Image.open(path) as image:
            assert min(image.size) > 400


@pytest.mark.requirement("SRS-TRN-216")
def test_the_same_json_gives_the_same_bytes(tmp_path):
    """A released figure can be made again and compared."""
    first, second = draw_evaluation(evaluation(), tmp_path / "a"), draw_evaluation(evaluation(), tmp_path / "b")
    assert {key: path.read_bytes() for key, path in first.items()} == {
        key: path.read_bytes() for key, path in second.items()
    }
    changed = evaluation()
    changed["sets"]["official-test"]["confusion"]["true_positive"] = 360
    third = draw_evaluation(changed, tmp_path / "c")
    assert third["official-test-confusion"].read_bytes() != first["official-test-confusion"].read_bytes()


@pytest.mark.requirement("SRS-TRN-216")
def test_the_same_json_gives_the_same_documents(tmp_path):
    """A PDF with the hour of its making in it cannot be told from a changed one."""
    bare = evaluation()
    bare["sets"] = {}
    folder = written(tmp_path / "in", evaluation=bare)
    first, second = write_report(folder, tmp_path / "a"), write_report(folder, tmp_path / "b")
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), name


@pytest.mark.requirement("SRS-TRN-217")
def test_a_missing_key_is_not_measured_and_never_an_error(tmp_path):
    """What a small set could not give must not stop the report of the rest."""
    from trainer.report.comparison import comparison_sections
    from trainer.report.document import Document
    from trainer.report.evaluation import evaluation_sections
    from trainer.report.page import html
    from trainer.report.slides import slides

    bare = evaluation()
    # Drawing is tried apart: here words and tables are, with every key missing once.
    for key in ("roc", "precision_recall", "histogram", "decision_curve", "confusion", "subgroups"):
        del bare["sets"]["official-test"][key]
    bare["training"].pop("log")
    del bare["sets"]["official-test"]["calibration"]
    bare["baselines"], bare["cross_population"], bare["sets"]["tune"] = {}, {}, {}
    bare["sets"]["official-test"]["auc"] = None
    for holed in holes(bare):
        assert slides(holed, {}, {}).startswith(b"%PDF")
        assert NOT_MEASURED in html(Document("", "", tuple(evaluation_sections(holed))))
    for key in comparison():
        lacking = {name: value for name, value in comparison().items() if name not in (key, "rows")}
        assert comparison_sections(lacking)
    empty = write_report(written(tmp_path, evaluation={"schema": "cxr-train evaluation 1"}), tmp_path / "out")
    assert "it flags a number that was not measured" in text_of(empty["slides.pdf"])
    assert len(pypdf.PdfReader(empty["slides.pdf"]).pages) == 10


@pytest.mark.requirement("SRS-TRN-217")
def test_a_figure_with_a_hole_in_its_values_is_drawn_or_left_out_but_does_not_fail(tmp_path):
    """A null stands where a NaN was."""
    from trainer.report.figures import comparison_drawings, evaluation_drawings

    for key, value in measured_set().items():
        for bad in (None, {}, [], "no number", [None], {"value": None}):
            record = evaluation()
            del record["training"], record["baselines"], record["cross_population"]
            # The other figures are drawn elsewhere; this one is asked for with the wrong value.
            record["sets"] = {
                "official-test": {key: bad, "sensitivity": SETTLED} if isinstance(value, dict | list) else {key: bad}
            }
            list(evaluation_drawings(record))
    assert list(comparison_drawings({"rows": [{"name": "a", "kind": "ours", "auc": {"value": None}}, None, "x"]})) == []
    only_value = {"rows": [{"name": "a", "kind": "published", "auc": {"value": 0.7}}]}
    assert [drawing.key for drawing in comparison_drawings(only_value)] == ["ladder"]


@pytest.mark.requirement("SRS-TRN-218")
def test_page_and_pdf_hold_the_figures_of_the_json(report):
    """The expert reads either, and both say the same."""
    page = report["report.html"].read_text("utf-8")
    printed = text_of(report["report.pdf"])
    for words in (
        "0.962 (0.942 to 0.982)",
        "0.931 (0.901 to 0.953)",
        "0.4321",
        "123,456",
        "0.923",
        "0.609",
        "0.823 (0.803 to 0.843)",
        "multi-reader study: not run",
        "not met",
        "x.png: does not decode",
        "too few: 17 with the finding, 30 needed",
        "file-size",
        "0.741",
        "&lt; 0.001",
        "0.641 (0.621 to 0.661)",
    ):
        assert words in page, words
        assert words.replace("&lt;", "<") in printed, words


@pytest.mark.requirement("SRS-TRN-218")
def test_every_set_and_step_of_the_json_has_its_place_and_a_missing_step_says_not_run(report):
    """A report without an exploration says that there is none."""
    page = report["report.html"].read_text("utf-8")
    for title in ("Set: official-test", "Set: tune", "Another population: nih", "Trivial baselines", "Paired tests"):
        assert title in page
    assert "Not run: no results file of this step was given." in page


@pytest.mark.requirement("SRS-TRN-218")
def test_the_report_names_the_files_it_was_made_from_with_their_hash(report):
    """A report is checked against the results it was made from."""
    source = report["report.html"].parent.parent / "a" / "evaluation.json"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert digest in report["report.html"].read_text("utf-8")
    assert digest in text_of(report["report.pdf"]).replace(" ", "")
    assert str(source.parent.parent) not in report["report.html"].read_text("utf-8")


@pytest.mark.requirement("SRS-TRN-218")
def test_a_gate_that_is_not_passed_is_said_to_experts_and_to_everybody(tmp_path):
    """A release that a trivial baseline beats must not look like a good one."""
    lost = comparison()
    lost["gate"] |= {"passed": False, "best_baseline": {"name": "file-size", "auc": 0.8231}}
    made = write_report(written(tmp_path, comparison=lost), tmp_path / "out")
    assert "Release gate for drawn-model: not passed." in text_of(made["report.pdf"])
    assert "not surely better than the best simple guess (file-size)" in text_of(made["slides.pdf"])


@pytest.mark.requirement("SRS-TRN-219")
def test_every_page_and_slide_states_that_it_is_a_prototype(report):
    """A single slide may be shown without the others."""
    for name in ("report.pdf", "slides.pdf"):
        pages = pypdf.PdfReader(report[name]).pages
        assert all(BANNER in page.extract_text() for page in pages), name
    assert BANNER in report["report.html"].read_text("utf-8")


@pytest.mark.requirement("SRS-TRN-219")
def test_nothing_says_that_a_disease_is_ruled_out(report):
    """A prioritization aid may not be read as a test that clears a patient."""
    words = " ".join(
        [report["report.html"].read_text("utf-8"), *(text_of(report[n]) for n in ("report.pdf", "slides.pdf"))]
    )
    for forbidden in ("rules out", "rule out", "ruled out", "is healthy", "disease-free", "no disease", "is absent"):
        assert forbidden not in words.lower(), forbidden


@pytest.mark.requirement("SRS-TRN-220")
def test_the_slides_say_in_plain_words_how_many_of_a_hundred(report):
    """A reader without statistics asks: of a hundred ill children, how many?"""
    pages = pypdf.PdfReader(report["slides.pdf"]).pages
    assert 8 <= len(pages) <= 10
    assert all(float(page.mediabox.width) / float(page.mediabox.height) == pytest.approx(16 / 9) for page in pages)
    words = text_of(report["slides.pdf"])
    assert "Of 100 X-rays of children with pneumonia it flags 93 and misses 7" in words
    assert "Of 100 X-rays of children without pneumonia it flags, wrongly, 15 and leaves alone 85" in words
    assert "3,911" in words
    assert "where 20 of 100 have it" in words
    assert "61 of 100" in words
    assert "AUC at least 0.985. Found: 0.9623: not met" in words


@pytest.mark.requirement("SRS-TRN-220")
def test_a_proportion_is_rounded_but_never_to_all_or_none():
    """99.6 % caught is not "all of 100"."""
    assert [of_hundred(value) for value in (0.0, 0.001, 0.5, 0.996, 1.0, None)] == [0, 1, 50, 99, 100, None]
    assert of_hundred({"value": 0.93}) == 93
    assert percent(0.1234) == "12.3 %"
    assert estimate({"value": 0.7}) == "0.700"
    assert estimate({"value": float("nan")}) == NOT_MEASURED
    assert people({"cohort": {"title": "NIH, adults"}}) == "adults"
    assert people({}) == "patients"


@pytest.mark.requirement("SRS-TRN-221")
def test_hostile_names_are_text_in_page_and_pdf(tmp_path):
    """Names come from a site's own tables and files."""
    hostile = "<script>alert('x')</script><b>$\\frac{1$"
    record = evaluation()
    record["model"]["name"] = record["cohort"]["title"] = record["cohort"]["problems"][0] = hostile
    record["baselines"] = {hostile: {"says": hostile, "auc": est(0.6)}}
    record["sets"] = {hostile: {**measured_set(), "subgroups": {"sex": {hostile: {"auc": est(0.9)}}}}}
    made = write_report(written(tmp_path, evaluation=record), tmp_path / "out")
    page = made["report.html"].read_text("utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "<script>" in text_of(made["report.pdf"])
    assert {path.parent for path in draw_evaluation(record, tmp_path / "figures").values()} == {tmp_path / "figures"}


@pytest.mark.requirement("SRS-TRN-221")
def test_the_page_fetches_nothing(report):
    """A page that loads from elsewhere tells elsewhere who reads it."""
    page = report["report.html"].read_text("utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "default-src 'none'" in page
    assert page.count("data:image/png;base64,") == 10


@pytest.mark.requirement("SRS-TRN-222")
def test_nothing_to_report_on_and_a_file_of_another_kind_are_refused_by_name(tmp_path):
    """An empty report would look like a finished one."""
    with pytest.raises(ReportError, match=r"expected evaluation\.json.*found none"):
        write_report(tmp_path, tmp_path / "out")
    with pytest.raises(ReportError, match=r"evaluation\.json: expected \"schema\".*evaluation 1.*found 'other 2'"):
        write_report(written(tmp_path / "other", evaluation={"schema": "other 2"}), tmp_path / "out")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "comparison.json").write_text("{", "utf-8")
    with pytest.raises(ReportError, match=r"comparison\.json: expected JSON"):
        write_report(tmp_path / "broken", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.requirement("SRS-TRN-223")
def test_grids_and_overlays_show_every_image_and_refuse_what_does_not_fit(tmp_path):
    """A failure that is missing from the grid of failures is not looked at."""
    images = [np.full((20, 30), 0.5, np.float32), *(np.eye(24, dtype=np.float32) for _ in range(4))]
    names = [f"case-{index}\n0.9" for index in range(5)]
    grid = draw_grid(images, names, tmp_path / "grid.png", columns=2)
    with Image.open(grid) as image:
        pixels = np.asarray(image.convert("L"))
    rows, columns = 3, 2
    filled = [
        pixels[row * len(pixels) // rows :][: len(pixels) // rows, column * pixels.shape[1] // columns :][
            :, : pixels.shape[1] // columns
        ].min()
        < 200
        for row in range(rows)
        for column in range(columns)
    ]
    assert filled == [True, True, True, True, True, False]
    plain = draw_overlays(images, [np.zeros_like(image) for image in images], names, tmp_path / "none.png")
    lit = draw_overlays(images, [np.ones_like(image) for image in images], names, tmp_path / "lit.png")
    color = np.asarray(Image.open(io.BytesIO(lit.read_bytes())).convert("RGB")).astype(int)
    gray = np.asarray(Image.open(io.BytesIO(plain.read_bytes())).convert("RGB")).astype(int)
    assert np.ptp(color, axis=2).max() > 40
    assert np.ptp(gray, axis=2).max() < 30  # the ink of the captions is a dark blue
    with pytest.raises(ValueError, match="found 5 and 4"):
        draw_grid(images, names[:4], tmp_path / "no.png")
    with pytest.raises(ValueError, match="map of the image's shape"):
        draw_overlays(images[:1], [np.zeros((3, 3))], names[:1], tmp_path / "no.png")
