"""Small trees for the tests of the trace, and copies of this repository's data in which one thing is changed."""

import json
import shutil
from pathlib import Path

from tests.conftest import ROOT

NEEDS = """
[need.UN-01]
user = "Reader"
says = "See."
requirements = ["SRS-AAA-*"]

[area]
AAA = {title = "First", code = ["cxr_node.first"]}
"""

REQUIREMENTS = """
[requirements]
SRS-AAA-001 = "It sees."
SRS-AAA-002 = "It tells."
"""

RISKS = """
[[severity]]
name = "minor"
means = "little"

[[severity]]
name = "serious"
means = "much"

[[probability]]
name = "rare"
means = "seldom"

[[probability]]
name = "often"
means = "daily"

[matrix]
minor = {rare = "acceptable", often = "weigh"}
serious = {rare = "weigh", often = "unacceptable"}

[[hazard]]
id = "HAZ-01"
title = "Blind"
sequence = "It does not see."
harm = "Delay."
severity_before = "serious"
probability_before = "often"
severity_after = "minor"
probability_after = "often"
basis = "Estimated."
residual = "It may blink."
controls = [{kind = "design", what = "It sees.", requirements = ["SRS-AAA-001"]}]
"""

TEST = """
import pytest
from cxr_node.first import see

pytestmark = pytest.mark.requirement("SRS-AAA-001")


def test_it_sees():
    pass


@pytest.mark.requirement("SRS-AAA-002")
async def test_it_sees_and_tells():
    pass


@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.requirement("SRS-AAA-002")), 2])
class TestTold:
    @pytest.mark.timeout(3)
    def test_again(self, x):
        def test_inner():
            pass
"""


def small(folder: Path) -> Path:
    """Write a tree with one need, two requirements, one control, one module and three tests, and nothing amiss."""
    for name, text in {
        "regulatory/needs.toml": NEEDS,
        "regulatory/requirements.toml": REQUIREMENTS,
        "regulatory/risks.toml": RISKS,
        "tests/test_first.py": TEST,
        "cxr_node/__init__.py": "",
        "cxr_node/first.py": '"""What sees. And more."""\n\nimport cxr_node\n',
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, **requirements: dict[str, object]) -> None:
    """Write a record of a run; each keyword is a requirement's letters and number, such as AAA_001."""
    counts = {"passed": 1, "failed": 0, "skipped": 0, "tests_sha256": "", "failing": []}
    kept = {
        "command": "pytest",
        "measured_on": "2026-01-02",
        "commit": "abc1234",
        "changed_since": False,
        "run_on": "one",
        "passed": 5,
        "failed": 0,
        "skipped": 1,
        "failing": [],
        "requirements": {f"SRS-{name.replace('_', '-')}": counts | about for name, about in requirements.items()},
    }
    path = folder / "regulatory" / "evidence" / "tests.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept), encoding="utf-8")


def edit(path: Path, old: str, new: str) -> None:
    """Change a file; what is to be changed must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} does not hold {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def copied(folder: Path) -> Path:
    """Copy what the sources read of this repository, without tests: code, data of the file, manifests, locks."""
    kept = {".py", ".toml", ".json", ".md", ".lock"}
    for top in ("cxr_node", "storage", "trainer", "regulatory"):
        for path in (ROOT / top).rglob("*"):
            wanted = path.suffix in kept and not {"file", "runs", "evidence", "static"} & set(path.parts)
            if wanted and (path.suffix != ".json" or path.stat().st_size < 1_000_000):
                target = folder / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    for name in (
        "pyproject.toml",
        "requirements.lock",
        "tests/requirements.lock",
        "tests/regulatory/test_supply_chain.py",
    ):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return folder


def table(material, name: str):
    """The table of an id."""
    (found,) = [item for item in material.tables if item.id == name]
    return found


def figure(material, name: str):
    """The figure of an id."""
    (found,) = [item for item in material.figures if item.id == name]
    return found
