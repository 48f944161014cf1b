"""The regulatory file is what its sources give, and a sentence with a number leads to the command that made it."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from regulatory import build, lint
from regulatory.__main__ import main
from regulatory.figures import NOTHING, PUBLISHED, Catalogue, Figure, Material, gather, source_paths
from regulatory.pages import FIGURES, PAGES
from regulatory.render import render
from regulatory.sources import SOURCES
from tests.conftest import ROOT
from trainer.report.words import BANNER


@pytest.fixture(scope="module")
def built():
    """Everything gathered and rendered once, from the tree as it is."""
    return build.build(ROOT)


@pytest.fixture
def copy(tmp_path):
    """A repository in which one file can be changed: everything else is the tree's own, by links."""

    def made(*changed: str) -> Path:
        root = tmp_path / "copy"
        _link(ROOT, root, [Path(name).parts for name in changed])
        return root

    return made


def _link(source: Path, target: Path, changed: list[tuple[str, ...]]) -> None:
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name in (".git", ".venv", ".cache", "var", "__pycache__"):
            continue
        below = [parts[1:] for parts in changed if parts[0] == entry.name]
        if () in below:
            shutil.copyfile(entry, target / entry.name)
        elif below:
            _link(entry, target / entry.name, below)
        else:
            (target / entry.name).symlink_to(entry)


@pytest.mark.requirement("SRS-REG-003")
def test_every_committed_page_is_what_its_sources_give(built):
    """A document that drifts from the code is the defect that this file exists to make impossible."""
    _, made = built
    problems = made.problems + build.drift(ROOT, made.files)
    # All of them, which a comparison of lists would cut short: each names its page.
    assert not problems, "\n".join(["run `make regulatory`, and read what changed:", *problems])


@pytest.mark.requirement("SRS-REG-003")
def test_a_page_changed_by_hand_fails_the_check_and_is_named(copy, built, capsys, monkeypatch):
    """Somebody types a better figure: the page, the line and both readings are printed."""
    name = "regulatory/file/19_eu_note.md"
    root = copy(name)
    page = root / name
    page.write_text(page.read_text("utf-8").replace("# A note", "# A bold note"), "utf-8")
    monkeypatch.setattr(build, "build", lambda root: built)
    assert main(["build", "--check", "--root", str(root)]) == 1
    printed = capsys.readouterr().out
    assert f"{name}: line 4 reads '# A bold note" in printed


@pytest.mark.requirement("SRS-REG-003")
def test_a_page_that_is_missing_and_one_that_nothing_makes_are_named(copy, built):
    """A file left over from an old build would be read as if it were true."""
    root = copy("regulatory/file/19_eu_note.md")
    (root / "regulatory/file/19_eu_note.md").rename(root / "regulatory/file/20_old_note.md")
    found = build.drift(root, built[1].files)
    assert [line.split(": ")[0] for line in found if "note" in line] == [
        "regulatory/file/19_eu_note.md",
        "regulatory/file/20_old_note.md",
    ]


@pytest.mark.requirement("SRS-REG-004")
def test_every_page_says_what_it_is_of_which_version_and_from_what(built):
    """A page travels alone: in a mail, in print."""
    for name, text in built[1].files.items():
        if name.endswith(".md"):
            assert BANNER in text, name
            assert re.search(r"cxr-node `[\d.]+\w*`, generated from `sha256:[0-9a-f]{16}`", text), name
            assert "Do not edit" in text, name
        elif name.endswith(".xml"):
            assert BANNER in text, name


@pytest.mark.requirement("SRS-REG-005")
def test_every_number_leads_to_the_command_that_made_it_in_two_steps(built):
    """A reviewer's walk: sentence, row of figures.md, command; or the citation, or the constant in the code."""
    catalogue, made = built
    allowed = lint.patterns(ROOT, lint.ALLOWED, "allowed")
    assert lint.walk(made.files, allowed) == []
    rows = {
        found[1]: line for line in made.files[FIGURES].splitlines() if (found := re.match(r'\| <a id="([^"]+)"', line))
    }
    for page in made.pages:
        for anchor in re.findall(r"figures\.md#(figure-[^)]+)\)", page.text):
            assert anchor in rows, f"{page.page.file}: {anchor}"
    used = {(type(item), item.id): item for page in made.pages for item in page.used}
    for key, item in used.items():
        if catalogue.topics[key] == PUBLISHED:
            assert item.source, item.id
            continue
        absent = isinstance(item, Figure) and any(word in item.shown for word in NOTHING)
        assert absent or any((ROOT / path).exists() for path in source_paths(item.source)), item.id
        if any(path.endswith(".json") and "/runs/" in path for path in source_paths(item.source)):
            assert item.command, item.id


@pytest.mark.requirement("SRS-REG-005")
def test_the_walk_finds_a_number_that_leads_nowhere():
    """The walk would prove nothing if it passed every number."""
    allowed = lint.patterns(ROOT, lint.ALLOWED, "allowed")
    page = (
        "## 3.1 Heading 7\n\nUnder 21 CFR 892.2080 it was [0.97 (0.95 to 0.98)](../figures.md#figure-a.auc).\n"
        "<!-- table a.b -->\n| 17 |\n<!-- end a.b -->\n`seed 4`\n```\n--seed 3\n```\nIt was 0.85.\n"
    )
    assert [(line, what.split("'")[1]) for line, what in lint.unlinked_numbers(page, allowed)] == [(11, "0.85")]


@pytest.mark.requirement("SRS-REG-006")
def test_every_source_in_the_folder_is_listed_and_every_one_listed_is_there():
    """A module that nobody calls is a topic that nobody reads."""
    folder = ROOT / "regulatory" / "sources"
    gathering = {
        path.stem for path in folder.glob("*.py") if "\ndef gather(root: Path) -> Material:" in path.read_text("utf-8")
    }
    assert gathering == set(SOURCES)


@pytest.mark.requirement("SRS-REG-006")
def test_nothing_gathered_depends_on_where_the_repository_lies(built, tmp_path):
    """A path of one machine on a page would differ on the next."""
    for name, text in built[1].files.items():
        assert str(ROOT) not in text, name


@pytest.mark.requirement("SRS-REG-003")
def test_the_reading_order_names_every_page(built):
    """A page that no list names is not found."""
    order = built[1].files["README.md"]
    assert [page.file for page in PAGES if page.file != "README.md" and f"({page.file})" not in order] == []
    assert all(dataclasses.asdict(page)["title"] for page in PAGES)


@pytest.mark.requirement("SRS-REG-003")
def test_a_new_version_of_the_software_is_a_new_file(copy, built):
    """Each page names the version it was made for."""
    root = copy("pyproject.toml")
    _change(root / "pyproject.toml", r'(?m)^version = ".*"', 'version = "9.9.9"')
    made = render(dataclasses.replace(built[0], root=root))
    named = {line.split(": ")[0] for line in build.drift(root, made.files)}
    assert {f"regulatory/file/{page.file}" for page in PAGES} <= named


@pytest.mark.requirement("SRS-REG-006")
def test_a_source_that_fails_names_itself_and_its_reason_and_the_others_count():
    """Many topics feed one file: who broke it must not have to be searched for."""

    def broken(root: Path):
        raise KeyError("no such cohort")

    found = gather(ROOT, {"broken": broken, "product": SOURCES["product"]})
    assert [problem.split(" (")[0] for problem in found.problems] == ["source broken raised KeyError: 'no such cohort'"]
    assert "product.version" in found.items[Figure]


@pytest.mark.requirement("SRS-REG-003")
def test_a_threshold_changed_in_a_manifest_names_each_page_that_prints_it(copy, built):
    """A document says 0.85 while the code runs 0.39: that is the case that this file is built against."""
    name = "cxr_node/packages/pneumonia-adult/manifest.json"
    root = copy(name)
    manifest = json.loads((root / name).read_text("utf-8"))
    threshold = manifest["operating_points"]["pneumonia"]["threshold"]
    manifest["operating_points"]["pneumonia"]["threshold"] = 0.85
    (root / name).write_text(json.dumps(manifest), "utf-8")
    drifted = build.drift(root, render(_again(built[0], root, name)).files)
    named = {line.split(": ")[0].removeprefix("regulatory/file/") for line in drifted}
    printing = {page for page, text in built[1].files.items() if f"{threshold:.6g}" in text and page.endswith(".md")}
    assert {FIGURES, "01_intended_use.md"} <= printing <= named


@pytest.mark.requirement("SRS-REG-003")
def test_what_changes_in_code_lock_and_tests_fails_the_check_which_names_the_page(copy):
    """A gate that closes, a presentation context, a package, a test that is deleted, the whole way as a person runs it.

    One run for all four, in a process that imports the changed code; each shows on the page that tells of it.
    """
    table, contexts = "cxr_node/findings/acceptance.py", "cxr_node/receive/contexts.py"
    root = copy(table, contexts, "requirements.lock", "tests/regulatory/test_threats.py")
    _change(root / table, r"MINIMUM_SIZE = \d+", "MINIMUM_SIZE = 999")
    _change(root / contexts, r"\n    CTImageStorage,\n(?=[^)]*\n\)\n)", "\n")
    _change(root / "requirements.lock", r"(?m)^pydicom==\S+", "pydicom==9.9.9")
    _change(root / "tests/regulatory/test_threats.py", r"(?m)^def test_", "def gone_")
    done = subprocess.run(
        [sys.executable, "-m", "regulatory", "build", "--check", "--root", str(root)],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 1, done.stderr
    said = {line.split(": ")[0].removeprefix("regulatory/file/"): line for line in done.stdout.splitlines()}
    assert "999" in said["01_intended_use.md"]
    assert "STORAGE accepts" in said["14_dicom_conformance_statement.md"]
    assert "9.9.9" in said["04_software/soup.md"]
    assert "17_traceability.md" in said


@pytest.mark.requirement("SRS-REG-003")
def test_a_drawing_may_differ_by_a_last_digit_and_by_nothing_that_is_seen(copy):
    """Another processor rounds otherwise; a curve that moved, a label or a line that went is a difference."""
    root = copy("regulatory/file/19_eu_note.md")
    drawn = '<svg><path id="a1" d="M 10.00001 20 L 30 40"/><use href="#a1"/><text>n = 12, AUC 0.972</text></svg>\n'
    same = drawn.replace("10.00001", "10.00004").replace("a1", "b2")
    (root / "regulatory/file/one.svg").write_text(drawn)
    assert not [line for line in build.drift(root, {"one.svg": same}) if "one.svg" in line]
    others = [("30", "30.5"), ("n =", "m ="), ("n = 12", "n = 13"), ("0.972", "0.971"), ("<use", "<path")]
    for other in (drawn.replace(*change) for change in others):
        assert [line for line in build.drift(root, {"one.svg": other}) if "one.svg: line 1 reads" in line]


def _change(path: Path, pattern: str, replacement: str) -> None:
    text = path.read_text("utf-8")
    changed = re.sub(pattern, replacement, text)
    assert changed != text, f"nothing in {path.name} is like {pattern}"
    path.write_text(changed, "utf-8")


def _again(catalogue: Catalogue, root: Path, changed: str) -> Catalogue:
    """Gather again what reads one file, from the changed root; what other topics said stays."""
    topics = {
        topic for (kind, name), topic in catalogue.topics.items() if changed in catalogue.items[kind][name].source
    }
    found = gather(root, {topic: SOURCES[topic] for topic in SOURCES if topic in topics})
    for topic in {topic for topic in catalogue.topics.values() if topic not in topics and topic != PUBLISHED}:
        items = [catalogue.items[kind][name] for (kind, name), other in catalogue.topics.items() if other == topic]
        found.add(topic, Material(files=tuple(items)))  # type: ignore[arg-type]  # added by their own kinds
    return found
