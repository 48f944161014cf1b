"""The trace from needs to results: what hangs together with nothing is named."""

import pytest

from regulatory import syntax, trace
from regulatory.evidence_record import digest_of
from regulatory.sources import orphans
from regulatory.sources import trace as pages
from tests.conftest import ROOT
from tests.regulatory.trees import edit, figure, run, small, table

FIRST = "tests/test_first.py::test_it_sees"
SECOND = "tests/test_first.py::test_it_sees_and_tells"
AGAIN = "tests/test_first.py::TestTold::test_again"


@pytest.mark.requirement("SRS-REG-040")
def test_every_requirement_need_control_and_test_of_this_project_belongs_to_something():
    """The file of a reviewer has no loose ends; what is loose is named here first."""
    made = trace.read(ROOT)
    assert "\n".join(made.orphans) == ""
    assert len(made.requirements) > 500
    assert len(made.tests) > 2000


@pytest.mark.requirement("SRS-REG-040")
def test_marks_are_read_from_functions_classes_modules_and_parameters(tmp_path):
    """Nothing is run for it, so each way of writing a mark must be known."""
    tests = {test.id: test for test in syntax.tests_of(small(tmp_path))}
    assert set(tests) == {FIRST, SECOND, AGAIN}
    assert tests[FIRST].requirements == ("SRS-AAA-001",)
    assert set(tests[SECOND].requirements) == {"SRS-AAA-001", "SRS-AAA-002"}
    assert set(tests[AGAIN].requirements) == {"SRS-AAA-001", "SRS-AAA-002"}
    assert tests[FIRST].imports == ("cxr_node.first",)


@pytest.mark.requirement("SRS-REG-040")
def test_the_tests_that_are_read_are_those_that_pytest_would_collect(request):
    """Held against pytest's own collection of this very file."""
    own = {item.nodeid.split("[")[0] for item in request.session.items if item.path.name == "test_trace.py"}
    read = {test.id for test in syntax.tests_of(ROOT) if test.file.endswith("regulatory/test_trace.py")}
    assert own <= read
    assert request.node.nodeid.split("[")[0] in read


@pytest.mark.requirement("SRS-REG-040")
def test_a_whole_small_tree_has_no_orphan(tmp_path):
    """The changes below each make one; without this they would prove nothing."""
    made = trace.read(small(tmp_path))
    assert made.orphans == ()
    assert [item.result for item in made.requirements] == [trace.NOT_RUN] * 2
    assert made.requirements[0].controls == ("RC-01a",)
    assert made.requirements[0].code == ("cxr_node.first",)


ORPHANS = {
    "a test that names no requirement": (
        "tests/test_first.py",
        'pytestmark = pytest.mark.requirement("SRS-AAA-001")',
        "",
        "tests/test_first.py::test_it_sees names no requirement",
    ),
    "a test that names one which nobody stated": (
        "tests/test_first.py",
        '"SRS-AAA-001"',
        '"SRS-AAA-001", "SRS-AAA-009"',
        "names SRS-AAA-009, which requirements.toml does not state",
    ),
    "a requirement without a test": (
        "regulatory/requirements.toml",
        'SRS-AAA-002 = "It tells."',
        'SRS-AAA-002 = "It tells."\nSRS-AAA-003 = "It waits."',
        "requirement SRS-AAA-003 has no test",
    ),
    "a requirement without a need": (
        "regulatory/needs.toml",
        '"SRS-AAA-*"',
        '"SRS-AAA-001"',
        "requirement SRS-AAA-002 belongs to no need",
    ),
    "a need without a requirement": (
        "regulatory/needs.toml",
        "[area]",
        '[need.UN-02]\nuser = "Reader"\nsays = "Hear."\nrequirements = []\n\n[area]',
        "need UN-02 has no requirement",
    ),
    "a pattern that matches nothing": (
        "regulatory/needs.toml",
        '"SRS-AAA-*"',
        '"SRS-AAA-*", "SRS-BBB-*"',
        "pattern SRS-BBB-* of UN-01 matches no requirement",
    ),
    "an area that nobody listed": (
        "regulatory/needs.toml",
        "AAA = {",
        "BBB = {",
        "no row [area] AAA for SRS-AAA-001",
    ),
    "an area of code that is gone": (
        "regulatory/needs.toml",
        '"cxr_node.first"',
        '"cxr_node.first", "cxr_node.second"',
        "the area's code cxr_node.second is not there",
    ),
    "code that no area answers for": (
        "regulatory/needs.toml",
        'code = ["cxr_node.first"]',
        "code = []",
        "code cxr_node.first belongs to no area",
    ),
    "a control on a requirement that is not stated": (
        "regulatory/risks.toml",
        'requirements = ["SRS-AAA-001"]',
        'requirements = ["SRS-AAA-007"]',
        "control RC-01a names SRS-AAA-007, which requirements.toml does not state",
    ),
}


@pytest.mark.requirement("SRS-REG-040", "SRS-REG-043")
@pytest.mark.parametrize("orphan", ORPHANS)
def test_an_orphan_fails_the_build_by_its_name(orphan, tmp_path):
    """Each kind of loose end, made by one change."""
    name, old, new, told = ORPHANS[orphan]
    root = small(tmp_path)
    edit(root / name, old, new)
    with pytest.raises(trace.BrokenTrace, match="traceability: ") as raised:
        orphans.gather(root)
    assert told in str(raised.value)


@pytest.mark.requirement("SRS-REG-040", "SRS-REG-043")
def test_a_deleted_test_leaves_requirement_and_control_behind(tmp_path):
    """Who deletes the last test of a control is told so, and the page loses it."""
    root = small(tmp_path)
    before = table(pages.gather(root), "trace.tests.AAA")
    (root / "tests" / "test_first.py").write_text(
        'import pytest\n\n\n@pytest.mark.requirement("SRS-AAA-002")\ndef test_it_tells():\n    pass\n'
    )
    with pytest.raises(trace.BrokenTrace) as raised:
        orphans.gather(root)
    assert "requirement SRS-AAA-001 has no test" in str(raised.value)
    assert "control RC-01a rests on SRS-AAA-001, which has no test" in str(raised.value)
    assert table(pages.gather(root), "trace.tests.AAA") != before


@pytest.mark.requirement("SRS-REG-041")
def test_without_a_record_every_result_reads_not_run(tmp_path):
    """And the build does not fail for it: a run is made by hand."""
    root = small(tmp_path)
    made = pages.gather(root)
    assert orphans.gather(root).tables == ()
    assert figure(made, "trace.run").shown == trace.NOT_RUN
    assert {row[-1] for row in table(made, "trace.matrix.AAA").rows} == {trace.NOT_RUN}
    assert table(made, "trace.needs").rows[0][-1] == "2 not run"


@pytest.mark.requirement("SRS-REG-041")
@pytest.mark.parametrize(
    ("about", "result"),
    [
        ({}, trace.PASSED),
        ({"skipped": 1}, trace.PARTLY),
        ({"passed": 0, "skipped": 3}, trace.SKIPPED),
        ({"tests_sha256": "other"}, trace.CHANGED),
        ({"failed": 1, "failing": [FIRST]}, trace.FAILED),
    ],
)
def test_a_result_is_that_of_the_tests_in_the_last_run(about, result, tmp_path):
    """A test that was added since makes the result unknown; a failed one stays failed whatever was added."""
    root = small(tmp_path)
    both = digest_of([FIRST, SECOND, AGAIN])
    run(root, AAA_001={"tests_sha256": both} | about, AAA_002={"tests_sha256": digest_of([AGAIN, SECOND])})
    found = {item.id: item.result for item in trace.read(root).requirements}
    assert found == {"SRS-AAA-001": result, "SRS-AAA-002": trace.PASSED}
    assert figure(pages.gather(root), "trace.run").shown == "5 passed, 0 failed, 1 skipped"


@pytest.mark.requirement("SRS-REG-041", "SRS-REG-043")
def test_a_failed_test_fails_the_build_with_requirement_control_and_name(tmp_path):
    """Also one that belongs to no requirement by then, as of a process that died."""
    root = small(tmp_path)
    run(root, AAA_001={"failed": 1, "failing": [FIRST]})
    edit(
        root / "regulatory" / "evidence" / "tests.json", '"skipped": 1, "failing": []', '"skipped": 1, "failing": ["x"]'
    )
    with pytest.raises(trace.BrokenTrace) as raised:
        orphans.gather(root)
    assert f"SRS-AAA-001 failed in the last run: {FIRST}" in str(raised.value)
    assert "control RC-01a rests on SRS-AAA-001, whose tests failed" in str(raised.value)
    assert "failed in the last run: x" in str(raised.value)


@pytest.mark.requirement("SRS-REG-040")
def test_a_cell_of_the_matrix_is_short_enough_to_print():
    """A requirement with sixty tests is told in several rows."""
    made = pages.gather(ROOT)
    rows = [row for item in made.tables if item.id.startswith("trace.tests.") for row in item.rows]
    assert max(row[2].count("`, `") for row in rows) < pages.NAMES_IN_A_CELL
    shown = {(row[0], name.strip("`")) for row in rows for name in row[2].split(", ")}
    assert shown == {(item.id, test.name) for item in trace.read(ROOT).requirements for test in item.tests}
