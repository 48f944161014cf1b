"""Images that somebody tries: looked at as the node looks at its own, apart, and told of without forbidden numbers."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.uid import CTImageStorage

from cxr_node.analyze import drops as drops_module
from cxr_node.analyze.analyzer import Analyzer
from cxr_node.analyze.apart import Apart, CallFailed, Stopped
from cxr_node.analyze.drops import Drops
from cxr_node.analyze.look import look
from cxr_node.cli.phantom import draw_phantom
from cxr_node.findings import ImageReference
from cxr_node.inference import ModelPackage
from cxr_node.inference.package import IntendedUse
from cxr_node.settings import Settings
from storage import drops, jobs
from storage.drops import DropFolder
from tests.builders import make_radiograph_dataset, to_part_10
from tests.cxr_node.inference.conftest import make_manifest
from tests.databases import migrated

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RANDOM = np.random.default_rng(7).bytes(4096)


class Brightness:
    """An engine that scores how bright the picture is."""

    device = "CPU"

    def __init__(self, package, *, cache_dir=None) -> None:
        self.package = package

    def scores(self, batch: np.ndarray) -> np.ndarray:
        return batch.mean(axis=(1, 2))


ADULT = ModelPackage(make_manifest(name="grown"), Path(), "a" * 64)
CHILD = ModelPackage(
    make_manifest(name="small", intended_use=IntendedUse((1, 5), ("PA", "AP"), ("CR", "DX"), ("CHEST",))),
    Path(),
    "c" * 64,
)
PACKAGES = (ADULT, CHILD)


def chest() -> np.ndarray:
    """A drawn chest as 8-bit gray values, which the look at the pixels lets pass."""
    drawn = draw_phantom(np.random.default_rng(3), opacity=0.0)
    return (drawn / drawn.max() * 255).astype(np.uint8)


def chest_dataset(**attributes):
    return make_radiograph_dataset(chest(), **attributes)


@pytest.fixture
def try_file(tmp_path):
    """Return a function that looks at bytes."""

    def tried(data: bytes, *, population: str = "", profile: str = "triage", traced: bool = False):
        path = tmp_path / "file"
        path.write_bytes(data)
        return look(
            path, tmp_path / "preview.png", population=population, profile=profile, packages=PACKAGES, traced=traced
        )

    return tried


@pytest.fixture
def picture():
    return cv2.imencode(".png", chest())[1].tobytes()


@pytest.mark.requirement("SRS-DRP-001")
@pytest.mark.real_data
def test_a_tried_file_is_judged_as_the_node_judges_its_own(shared_data, tmp_path):
    """Two gates would be two truths: exclusion, inputs and notes are equal on every real DICOM file."""
    analyzer = Analyzer(PACKAGES, profile="research", engine=Brightness)
    files = sorted((shared_data / "dicom").glob("*.dcm"))
    own = analyzer.prepare((path, ImageReference("", "", ""), {}) for path in files)
    for path, expected in zip(files, own, strict=True):
        found = look(path, tmp_path / "p.png", population="", profile="research", packages=PACKAGES)
        assert found.exclusion == expected.exclusion, path.name
        assert found.notes == expected.notes
        assert found.inputs.keys() == expected.inputs.keys()
        for digest, array in found.inputs.items():
            np.testing.assert_array_equal(array, expected.inputs[digest])


@pytest.mark.requirement("SRS-DRP-001")
def test_an_accepted_image_comes_with_inputs_facts_and_a_preview(try_file, tmp_path):
    """A person believes what they can see; who the patient is, is no fact."""
    dataset = chest_dataset()
    found = try_file(to_part_10(dataset))
    assert (found.kind, found.exclusion, set(found.inputs)) == ("DICOM", None, {ADULT.digest})
    assert found.facts["age"] == "66 years"
    assert found.sop_instance_uid == dataset.SOPInstanceUID
    assert "DOE" not in str(found.facts)
    assert max(cv2.imread(str(tmp_path / "preview.png")).shape) <= 640


@pytest.mark.requirement("SRS-DRP-001")
@pytest.mark.parametrize(
    ("attributes", "reason", "has_preview"),
    [
        ({"BodyPartExamined": "HAND"}, "body-part", True),
        ({"PatientAge": "008Y", "PatientBirthDate": None}, "age", True),
        ({"SOPClassUID": CTImageStorage}, "sop-class", True),
        ({"PixelData": None}, "unreadable-pixels", False),
    ],
)
def test_an_excluded_image_says_why_and_is_shown_where_it_decodes(try_file, attributes, reason, has_preview):
    """Why not, with the picture beside it."""
    found = try_file(to_part_10(chest_dataset(**attributes)))
    assert found.exclusion.reason == reason
    assert (found.has_preview, found.inputs) == (has_preview, {})


@pytest.mark.requirement("SRS-DRP-002")
@pytest.mark.parametrize("data", [b"", b"hello world, this is no image", b"\0" * 500, RANDOM, b"DICOM" * 50])
def test_what_is_no_image_is_told_as_such(try_file, data):
    """Almost any bytes read as some DICOM element."""
    found = try_file(data)
    assert (found.kind, found.exclusion.reason) == ("", "not-an-image")


@pytest.mark.requirement("SRS-DRP-003")
def test_a_dataset_that_states_50_000_by_50_000_pixels_is_not_decoded(try_file):
    """A bomb is known by its header."""
    found = try_file(to_part_10(chest_dataset(Rows=50_000, Columns=50_000)))
    assert "more than 40000000 pixels" in found.exclusion.message


@pytest.mark.requirement("SRS-DRP-005")
@pytest.mark.parametrize(("population", "digest"), [("adult", ADULT.digest), ("child", CHILD.digest)])
def test_a_picture_goes_to_the_model_for_whom_it_was_said_to_show(try_file, picture, population, digest):
    """It carries no age: the wrong model would score it all the same."""
    found = try_file(picture, population=population)
    assert (found.kind, found.exclusion, set(found.inputs)) == ("PNG", None, {digest})
    assert "somebody stated them" in found.notes[0]


@pytest.mark.requirement("SRS-DRP-005")
def test_a_picture_of_which_nobody_said_anything_is_shown_and_not_analysed(try_file, picture):
    """The node does not guess an age."""
    found = try_file(picture)
    assert (found.exclusion.reason, found.inputs, found.has_preview) == ("not-stated", {}, True)


@pytest.mark.requirement("SRS-DRP-005")
def test_what_is_no_chest_is_said_before_whom_it_shows_is_asked(try_file):
    """Who tries a holiday picture need not be asked for its age."""
    noise = np.random.default_rng(1).integers(0, 255, (300, 300, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    assert try_file(data).exclusion.reason in ("not-a-chest", "rotated", "inverted-polarity", "upside-down", "blank")
    assert try_file(data, population="adult").inputs == {}


@pytest.mark.requirement("SRS-DRP-009")
def test_the_trace_holds_every_rule_also_after_the_first_objection(try_file):
    """The second mistake is found in the first try."""
    data = to_part_10(chest_dataset(BodyPartExamined="HAND", ViewPosition="LL"))
    found = try_file(data, traced=True)
    objections = {rule["reason"]: rule["objection"] for rule in found.trace["rules"]}
    assert [reason for reason, objection in objections.items() if objection] == ["body-part", "view"]
    assert found.exclusion.reason == "body-part"
    assert found.trace["pixels"] == {"looked": True, "objection": ""}
    values = {rule["reason"]: rule["value"] for rule in found.trace["rules"]}
    assert (values["modality"], values["view"], values["bits"]) == ("DX", "LL", "8")


@pytest.mark.requirement("SRS-DRP-009")
def test_the_trace_tells_which_model_an_image_would_go_to(try_file):
    """Or why to none."""
    routing = try_file(to_part_10(chest_dataset()), traced=True).trace["routing"]
    assert (routing["models"], routing["objection"], routing["age"]) == (["grown"], "", "66 years")
    routing = try_file(to_part_10(chest_dataset(PatientAge="010Y")), traced=True).trace["routing"]
    assert routing["models"] == []
    assert "no model is meant for this age" in routing["objection"]


# Functions for the process apart; it finds them by the name of this module.


def _answer(value):
    return value * 2


def _die():
    os.abort()


def _sleep():
    time.sleep(60)


def _raise():
    raise ValueError("P1^DOE")


def _take_memory():
    return len(bytearray(4 << 30))


@pytest.fixture
def apart(monkeypatch):
    """Make callers of functions of this module, which the other process must be able to import."""
    made = []
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def make(function, **bounds):
        function.__module__ = Path(__file__).stem
        made.append(Apart(function, **bounds))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.requirement("SRS-DRP-007")
@pytest.mark.parametrize(
    ("function", "bounds", "said"),
    [
        (_die, {}, "ended the process"),
        (_sleep, {"longest_s": 0.01}, "not done after"),
        (_raise, {}, "^ValueError$"),
        (_take_memory, {"memory_bytes": 1 << 30}, "more memory"),
    ],
)
def test_what_a_file_does_to_its_decoder_ends_with_the_call(apart, function, bounds, said):
    """The stage goes on; a library's message, which may quote the dataset, goes no further."""
    with pytest.raises(CallFailed, match=said):
        apart(function, **bounds)()


@pytest.mark.requirement("SRS-DRP-007")
def test_the_next_call_gets_a_new_process(apart):
    """One bad file costs no other."""
    call = apart(_answer)
    assert call(2) == 4
    call._process.kill()
    call._process.wait()
    assert call(3) == 6


@pytest.mark.requirement("SRS-DRP-007")
def test_a_call_after_the_end_is_left_to_another(apart):
    """A stage that stops must not fail a file for good."""
    call = apart(_answer)
    call.close()
    with pytest.raises(Stopped):
        call(1)


class Bench:
    """The handler of tried files on a real database, with the look in this process."""

    def __init__(self, root: Path, profile: str, monkeypatch) -> None:
        self.settings = Settings.model_validate({"base_dir": str(root), "node": {"profile": profile}})
        self.settings.data_dir.mkdir()
        self.database = migrated(self.settings.database_url)
        self.folder = DropFolder(self.settings.data_dir / "drops")
        analyzer = Analyzer(PACKAGES, profile=profile, engine=Brightness)
        monkeypatch.setattr(drops_module, "Apart", lambda function: function)
        self.drops = Drops(self.settings, self.database, lambda: analyzer)

    def add(self, data: bytes, population: str = "", purpose: str = "try") -> int:
        location = self.folder.new()
        self.folder.path(location).write_bytes(data)
        with self.database.begin() as connection:
            drop = drops.add(
                connection,
                owner="session:me",
                purpose=purpose,
                options={"population": population},
                now=NOON,
                expires_at=NOON + timedelta(minutes=15),
            )
            file = drops.add_file(
                connection, drop.id, name="a", state=drops.WAITING, now=NOON, location=location, size=len(data)
            )
            jobs.schedule(connection, drops.KIND, str(file.id), run_at=NOON, now=NOON)
        return file.id

    def run(self, file_id: int):
        with self.database.begin() as connection:
            (job,) = jobs.claim(connection, [drops.KIND], owner="t:1:", now=NOON)
        settle = self.drops.handle(job)
        with self.database.begin() as connection:
            settle(connection)
            jobs.complete(connection, job, now=NOON)
        with self.database.read() as connection:
            found = drops.get_file(connection, file_id)
        return found[1] if found else None


@pytest.fixture
def make_bench(tmp_path, monkeypatch):
    made = []

    def make(profile: str = "triage") -> Bench:
        made.append(Bench(tmp_path, profile, monkeypatch))
        return made[-1]

    yield make
    for one in made:
        one.database.dispose()


@pytest.mark.requirement("SRS-DRP-006")
@pytest.mark.parametrize(("profile", "has_numbers"), [("triage", False), ("research", True)])
def test_probabilities_are_kept_in_profile_research_only(make_bench, picture, profile, has_numbers):
    """What is not kept is shown nowhere."""
    bench = make_bench(profile)
    file = bench.run(bench.add(picture, population="adult"))
    assert file.state == drops.DONE
    (finding,) = file.result["findings"]
    assert finding["model"] == "grown"
    assert ("probability" in finding, "threshold" in finding) == (has_numbers, has_numbers)
    assert file.result["outcome"] == ("flagged" if finding["flagged"] else "not_flagged")


@pytest.mark.requirement("SRS-DRP-001")
def test_an_excluded_file_is_settled_with_its_reason(make_bench):
    """Not analysed is a result."""
    bench = make_bench()
    file = bench.run(bench.add(to_part_10(chest_dataset(Modality="CT"))))
    assert (file.state, file.result["outcome"], file.result["findings"]) == (drops.DONE, "not_analysed", [])
    assert file.result["exclusion"]["attribute"] == "(0008,0060) Modality"


@pytest.mark.requirement("SRS-DRP-004")
def test_a_file_that_was_cleared_while_it_waited_or_was_looked_at_leaves_nothing(make_bench, picture):
    """Neither a row nor a preview."""
    bench = make_bench()
    file_id = bench.add(picture)
    with bench.database.begin() as connection:
        (job,) = jobs.claim(connection, [drops.KIND], owner="t:1:", now=NOON)
    settle = bench.drops.handle(job)
    with bench.database.begin() as connection:
        found = drops.get_file(connection, file_id)
        bench.folder.delete(drops.remove(connection, found[0].id))
    with bench.database.begin() as connection:
        settle(connection)
    assert list(bench.folder.root.iterdir()) == []
    with bench.database.begin() as connection:
        bench.drops.handle(replace(job, key=str(file_id)))(connection)


@pytest.mark.requirement("SRS-DRP-005")
def test_what_was_said_while_it_was_looked_at_is_not_overtaken(make_bench, picture):
    """The answer of before is dropped: the job was scheduled again."""
    bench = make_bench()
    file_id = bench.add(picture, population="adult")
    with bench.database.begin() as connection:
        (job,) = jobs.claim(connection, [drops.KIND], owner="t:1:", now=NOON)
    settle = bench.drops.handle(job)
    with bench.database.begin() as connection:
        drop, _ = drops.get_file(connection, file_id)
        drops.change(connection, drop.id, options={"population": "child"})
        jobs.schedule(connection, drops.KIND, str(file_id), run_at=NOON, now=NOON)
    with bench.database.begin() as connection:
        settle(connection)
        jobs.complete(connection, job, now=NOON)
        assert drops.get_file(connection, file_id)[1].state == drops.WAITING
    assert bench.run(file_id).result["findings"][0]["model"] == "small"


@pytest.mark.requirement("SRS-DRP-007")
def test_a_file_that_ended_its_decoder_is_told_to_its_sender_and_to_no_administrator(make_bench, picture):
    """The job is done: a list of failed jobs is for what somebody must act on."""
    bench = make_bench()

    def ended(*_):
        raise CallFailed("reading it ended the process that read it")

    bench.drops._look = ended
    file_id = bench.add(picture)
    file = bench.run(file_id)
    assert (file.state, file.reason) == (drops.FAILED, "reading it ended the process that read it")
    with bench.database.read() as connection:
        assert jobs.get(connection, drops.KIND, str(file_id)).state == "COMPLETED"


@pytest.mark.requirement("SRS-DRP-007")
def test_a_file_whose_job_is_given_up_says_so(make_bench, picture):
    """The page must not wait for ever."""
    bench = make_bench()
    file_id = bench.add(picture)
    with bench.database.begin() as connection:
        (job,) = jobs.claim(connection, [drops.KIND], owner="t:1:", now=NOON)
        bench.drops.on_failed(connection, job, "reading it ended the process that read it")
    with bench.database.read() as connection:
        file = drops.get_file(connection, file_id)[1]
    assert (file.state, file.reason) == (drops.FAILED, "reading it ended the process that read it")
