"""Images of many studies on their way at once: order, bounds, and whose failure is whose."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from pydicom.dataset import Dataset

from cxr_node.analyze.analyzer import Analyzed
from cxr_node.analyze.flow import Flow
from cxr_node.analyze.prepare import Prepared, Wanted
from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, Score

EXCLUDED = Exclusion("view", "View Position is LL, expected PA or AP")


def _image(name: str) -> Wanted:
    return Wanted(None, ImageReference(name, "1", "2"))


def _scored(prepared):
    score = Score("pneumonia", "m", "1", "d", 0.5, 0.5, "locked", True)
    return [
        Analyzed(
            item,
            ImageAnalysis(item.image, exclusion=item.exclusion)
            if item.exclusion
            else ImageAnalysis(item.image, (score,)),
        )
        for item in prepared
    ]


def _header(value: str) -> Dataset:
    header = Dataset()
    header.PatientID, header.StudyID = "P1", value
    return header


@pytest.fixture
def pool():
    with ThreadPoolExecutor(3) as made:
        yield made


@pytest.fixture
def scorer():
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.mark.requirement("SRS-ANA-304")
def test_every_study_gets_its_own_images_in_their_order(pool, scorer):
    """Whatever order they are prepared and scored in: one study's score must not reach another."""
    studies = {f"S{number}": [f"S{number}.{place}" for place in range(number)] for number in range(7)}
    flow = Flow(lambda wanted: pool.submit(Prepared, wanted.image), _scored, scorer, window=4)
    found = dict(flow.run((key, [_image(name) for name in names]) for key, names in studies.items()))
    assert {key: [item.prepared.image.sop_instance_uid for item in items] for key, items in found.items()} == studies


@pytest.mark.requirement("SRS-ANA-304")
@pytest.mark.parametrize("where", ["prepare", "score"])
def test_a_failure_is_that_of_its_study_alone(pool, scorer, where):
    """The others of the claim are settled; this one is tried again."""

    def prepare(wanted):
        if where == "prepare" and wanted.image.sop_instance_uid == "B.1":
            raise OSError("gone")
        return Prepared(wanted.image)

    def score(prepared):
        if where == "score" and any(item.image.sop_instance_uid == "B.1" for item in prepared):
            raise RuntimeError("engine")
        return _scored(prepared)

    flow = Flow(lambda wanted: pool.submit(prepare, wanted), score, scorer, window=1)
    found = dict(flow.run((key, [_image(f"{key}.0"), _image(f"{key}.1")]) for key in "ABC"))
    assert [type(found[key]) for key in "ABC"] == [list, OSError if where == "prepare" else RuntimeError, list]


@pytest.mark.requirement("SRS-ANA-305")
def test_a_study_of_ten_thousand_images_has_few_of_them_on_their_way(scorer):
    """Each holds a model's input: all of them at once would be gigabytes."""
    waiting: list[Future[Prepared]] = []
    most = 0

    def prepare(wanted):
        nonlocal most
        future: Future[Prepared] = Future()
        waiting.append(future)
        most = max(most, len(waiting))
        if len(waiting) == 8:  # all that may be on their way: finish them
            for one in list(waiting):
                waiting.remove(one)
                one.set_result(Prepared(wanted.image))
        return future

    asked = []

    def studies():
        for key, count in (("small", 0), ("large", 10_000), ("next", 0)):
            asked.append(key)
            yield key, [_image(str(number)) for number in range(count)]

    flow = Flow(prepare, _scored, scorer, window=8)
    found = {key: len(items) for key, items in flow.run(studies())}
    assert found == {"small": 0, "large": 10_000, "next": 0}
    assert most == 8


@pytest.mark.requirement("SRS-ANA-305")
def test_excluded_images_that_say_the_same_share_a_header(pool, scorer):
    """Ten thousand headers of a CT are half a gigabyte, and say one thing."""

    def prepare(wanted):
        number = int(wanted.image.sop_instance_uid)
        return Prepared(wanted.image, _header(str(number % 2)), EXCLUDED if number else None)

    flow = Flow(lambda wanted: pool.submit(prepare, wanted), _scored, scorer, window=8)
    ((_, found),) = flow.run([("S", [_image(str(number)) for number in range(50)])])
    headers = [item.prepared.header for item in found]
    assert [header.StudyID for header in headers] == [str(number % 2) for number in range(50)]
    assert len({id(header) for header in headers}) == 3  # two that were shared, and that of the image looked at


@pytest.mark.requirement("SRS-ANA-304")
def test_what_is_ready_is_scored_together_and_one_call_at_a_time(scorer):
    """A GPU likes batches; nobody waits for one to fill."""
    futures = [Future() for _ in range(6)]
    left = iter(futures)
    first_called, may_end = threading.Event(), threading.Event()
    sizes = []

    def score(prepared):
        sizes.append(len(prepared))
        if len(sizes) == 1:
            first_called.set()
            assert may_end.wait(60)
        return _scored(prepared)

    def finish():
        futures[0].set_result(Prepared(_image("0").image))
        assert first_called.wait(60)
        for number, future in enumerate(futures[1:], 1):
            future.set_result(Prepared(_image(str(number)).image))
        may_end.set()

    helper = threading.Thread(target=finish)
    helper.start()
    flow = Flow(lambda wanted: next(left), score, scorer, window=6)
    ((_, found),) = flow.run([("S", [_image(str(number)) for number in range(6)])])
    helper.join(60)
    assert [item.prepared.image.sop_instance_uid for item in found] == [str(number) for number in range(6)]
    assert sizes == [1, 5]
