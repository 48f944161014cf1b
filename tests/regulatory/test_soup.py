"""The SOUP list names what is installed, no more and no less."""

import hashlib
import re
import tomllib

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.requirement("SRS-REG-001")


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=~! ;]", requirement)[0].lower()


def test_every_direct_dependency_has_a_reason():
    """A component that nobody can justify should not be in a medical product."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    soup = tomllib.loads((ROOT / "regulatory" / "soup.toml").read_text())
    stated = {"runtime": project["dependencies"], **project["optional-dependencies"]}
    for group, requirements in stated.items():
        assert sorted(soup[group]) == sorted(_name(requirement) for requirement in requirements), group


@pytest.mark.parametrize("lock", ["requirements.lock", "tests/requirements.lock"])
def test_the_lock_pins_every_dependency_with_its_hash(lock):
    """What was tested is what a site installs."""
    text = (ROOT / lock).read_text()
    blocks = re.findall(r"^([a-z0-9_.\-]+(?:\[[a-z]+\])?)==([^ \\\n]+)(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    locked = {name.split("[")[0] for name, _, hashes in blocks if "--hash=sha256:" in hashes}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    if lock.startswith("tests"):
        wanted += project["optional-dependencies"]["dev"] + project["optional-dependencies"]["weights"]
    assert sorted({_name(requirement) for requirement in wanted} - locked) == []


def test_every_vendored_file_is_the_one_that_was_assessed_and_brings_its_licence():
    """A script in the page sees what the reader sees; nobody may change it unnoticed."""
    folder = ROOT / "cxr_node" / "worklist" / "web" / "static" / "vendor"
    listed = tomllib.loads((ROOT / "regulatory" / "soup.toml").read_text())["vendored"]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.js")}
    assert found == {name: entry["sha256"] for name, entry in listed.items()}
    assert len(list(folder.glob("LICENSE-*.txt"))) == len(found)
