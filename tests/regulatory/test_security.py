"""The cybersecurity file: threats, ports, bill of materials, vulnerabilities."""

import json
import re

import pytest
from pydantic import BaseModel

from cxr_node.settings import Settings
from regulatory import sbom
from regulatory.figures import BuildError
from regulatory.lock import LOCK
from regulatory.sources import security
from tests.conftest import ROOT
from tests.regulatory.trees import edit, figure, table


@pytest.fixture
def root(tmp_path):
    """What the source reads, in a place where it may be changed; the tests' names as stubs."""
    from regulatory import threats

    for name in (security.THREATS, security.SECURITY, security.SBOM, security.RECORD, security.LOCK):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    for name in ("requirements.toml", "needs.toml", "risks.toml"):
        (tmp_path / "regulatory" / name).write_bytes((ROOT / "regulatory" / name).read_bytes())
    names = sorted({name for threat in threats.read().threats for name in threat.tests})
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_all.py").write_text("".join(f"def {name}():\n    pass\n\n\n" for name in names))
    return tmp_path


@pytest.mark.requirement("SRS-REG-049")
def test_every_port_of_the_settings_is_a_listener_or_something_that_is_called():
    """A port that a reviewer is not told of is open all the same."""

    def ports(model, prefix=""):
        for name, field in model.model_fields.items():
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
            if inner:
                yield from ports(inner[0], f"{prefix}{name}.")
            elif name == "port" or name.endswith("_port"):
                yield prefix + name

    told = {f"{section}.{port}" for _, section, _, port, _, _ in security.LISTENERS}
    called = {"destination.port", "peer.port", "source.port", "orders.ris.port", "audit.syslog_port"}
    assert set(ports(Settings)) == told | called


@pytest.mark.requirement("SRS-REG-049")
def test_listeners_are_told_with_the_defaults_of_the_settings(root):
    """As `node.toml` is when nobody changes it."""
    rows = {row[0]: row for row in table(security.gather(root), "security.listeners").rows}
    assert rows["DICOM, images and notices"][1] == f"127.0.0.1, port {Settings().receive.port}"
    assert rows["STOW-RS"][1] == "not opened"
    assert rows["HL7 orders"][3] == "`[orders.hl7_tls]`"


@pytest.mark.requirement("SRS-REG-049")
def test_an_interface_on_no_boundary_or_on_two_fails_the_build(root):
    """Somebody must have thought of who is on the other side."""
    edit(root / security.SECURITY, '"dicom-scp", ', "")
    with pytest.raises(BuildError, match="found otherwise: dicom-scp"):
        security.gather(root)
    edit(root / security.SECURITY, '["web", ', '["dicom-scp", "web", "hl7", ')
    with pytest.raises(BuildError, match="found otherwise: hl7"):
        security.gather(root)


@pytest.mark.requirement("SRS-REG-049")
def test_a_threat_whose_test_is_gone_fails_the_build(root):
    """By the test's name."""
    assert security.gather(root).tables
    edit(root / "tests" / "test_all.py", "def test_a_stranger_is_not_heard()", "def test_other()")
    with pytest.raises(BuildError, match="tests that are not there: test_a_stranger_is_not_heard"):
        security.gather(root)


@pytest.mark.requirement("SRS-REG-049")
def test_a_threat_that_is_changed_is_another_page(root):
    """The page is the data."""
    before = table(security.gather(root), "security.threats.hl7")
    edit(root / security.THREATS, "A stranger orders priorities.", "A stranger orders lunch.")
    after = table(security.gather(root), "security.threats.hl7")
    assert before != after
    assert after.rows[0][1] == "A stranger orders lunch."


@pytest.mark.requirement("SRS-REG-049")
def test_a_search_that_was_not_run_reads_not_run_and_no_count(root):
    """A zero would be taken for a clean one."""
    path = root / security.RECORD
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"state": "not run", "reason": "no way out", "found": []}))
    made = security.gather(root)
    assert figure(made, "security.vulnerabilities.found").shown == "not run"
    assert "NOT RUN" in figure(made, "security.vulnerabilities.says").shown
    assert table(made, "security.vulnerabilities.found").rows == (("not run",) * 4,)


@pytest.mark.requirement("SRS-REG-049")
def test_a_search_that_found_something_names_it_and_one_of_another_lock_says_so(root):
    """With where it is mended."""
    hole = {"name": "numpy", "version": "1.0", "id": "PYSEC-1", "aliases": ["CVE-1"], "fixed_in": []}
    path = root / security.RECORD
    record = json.loads(path.read_text()) | {"state": "complete", "audited": 9, "skipped": [], "found": [hole]}
    path.write_text(json.dumps(record | {"lock_sha256": "0"}))
    made = security.gather(root)
    assert table(made, "security.vulnerabilities.found").rows == (("numpy", "1.0", "PYSEC-1, CVE-1", "none"),)
    assert figure(made, "security.vulnerabilities.found").shown == "1"
    assert "ANOTHER LOCK" in figure(made, "security.vulnerabilities.says").shown


@pytest.mark.requirement("SRS-REG-049")
def test_an_expectation_is_met_partly_or_not_and_nothing_else(root):
    """No kinder words."""
    edit(root / security.SECURITY, 'state = "met"', 'state = "nearly"')
    with pytest.raises(BuildError, match="'nearly', expected one of"):
        security.gather(root)


@pytest.mark.requirement("SRS-REG-048")
@pytest.mark.parametrize(
    ("old", "new"), [("hl7==", "hl7==9"), ("hl7==", "hl8==")], ids=["another version", "another component"]
)
def test_a_bill_that_is_not_of_the_lock_fails_the_build(root, old, new):
    """By the component, with the command."""
    edit(root / security.LOCK, f"\n{old}", f"\n{new}")
    with pytest.raises(BuildError, match=r"is not that of requirements\.lock: hl7 .*python -m regulatory\.sbom"):
        security.gather(root)


@pytest.mark.requirement("SRS-REG-048")
def test_models_name_the_data_that_they_learned_from():
    """The data are components, with counts and hashes of the parts that each package made of them."""
    bill = sbom.bill()
    by_ref = {item["bom-ref"]: item for item in bill["components"]}
    models = [item for item in bill["components"] if item["type"] == "machine-learning-model"]
    needs = {row["ref"]: row["dependsOn"] for row in bill["dependencies"]}
    assert len(models) == len(list((ROOT / "cxr_node" / "packages").glob("*/manifest.json")))
    for model in models:
        manifest = json.loads((ROOT / "cxr_node" / "packages" / model["name"] / "manifest.json").read_text())
        (ref,) = [row["ref"] for row in model["modelCard"]["modelParameters"]["datasets"]]
        parts = {row["name"]: row["value"] for row in by_ref[ref]["properties"]}
        train = manifest["training"]["cohort"]["parts"]["train"]
        assert train["sha256"] in parts[f"cxr-node:{model['name']}:train"]
        assert model["modelCard"]["considerations"]["technicalLimitations"] == manifest["limitations"]
        assert needs[model["bom-ref"]] == [ref]
        assert by_ref[ref]["type"] == "data"


@pytest.mark.requirement("SRS-REG-048")
def test_a_data_set_without_a_row_is_refused(tmp_path, monkeypatch):
    """Somebody must have read its terms."""
    stated = (ROOT / "regulatory" / "datasets.toml").read_text()
    other = tmp_path / "datasets.toml"
    other.write_text(stated.replace("[kermany]", "[other]"))
    monkeypatch.setattr(sbom, "DATASETS", other)
    with pytest.raises(ValueError, match=r"expected \['kermany', 'nih'\]"):
        sbom.bill()


@pytest.mark.requirement("SRS-REG-048")
def test_libraries_of_the_page_are_all_of_the_lock_and_the_vendored_files(root):
    """Counted by the lock's own lines."""
    made = security.gather(root)
    libraries = {row[0]: int(row[1]) for row in table(made, "security.sbom.types").rows}["library"]
    lines = re.findall(r"(?m)^[a-z0-9._-]+==", LOCK.read_text())
    assert libraries == len(lines) + 3
    assert sum(int(row[1]) for row in table(made, "security.sbom.licences").rows) == libraries
