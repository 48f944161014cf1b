"""The architecture page is the source's own."""

import grimp
import pytest

from regulatory.figures import BuildError
from regulatory.sources import architecture
from regulatory.syntax import imports_of
from tests.conftest import ROOT
from tests.regulatory.trees import edit, figure, table


def chart(material, name):
    """A diagram as text."""
    (found,) = [item for item in material.texts if item.id == name]
    return found.markdown


@pytest.mark.requirement("SRS-REG-045")
def test_the_imports_are_those_that_the_import_linter_sees():
    """Another reader of the same source, which the contracts are held with."""
    tops = ("storage", "trainer")
    graph = grimp.build_graph(*tops, cache_dir=None)
    read = imports_of(ROOT)
    own = {(module, target) for module in read if module.split(".")[0] in tops for target in read[module]}
    seen = {
        (module, target)
        for module in graph.modules
        for target in graph.find_modules_directly_imported_by(module)
        if target.split(".")[0] in tops
    }
    # Migrations lie in folders that are no packages, which the linter does not look into.
    assert {edge for edge in own if edge[0] in graph.modules and edge[1].split(".")[0] in tops} == seen
    assert len(seen) > 100


CONTRACTS = """
[[tool.importlinter.contracts]]
type = "layers"
name = "Inside the node"
containers = ["cxr_node"]
exhaustive_ignores = ["__main__"]
layers = ["cli", "look | send", "values"]

[[tool.importlinter.contracts]]
type = "forbidden"
name = "Values"
source_modules = ["cxr_node.values"]
forbidden_modules = ["storage"]
"""


@pytest.fixture
def root(tmp_path):
    """A node of two stages, of which one reaches bytes."""
    for name, text in {
        "pyproject.toml": CONTRACTS,
        "cxr_node/__init__.py": "",
        "cxr_node/__main__.py": "from cxr_node.cli import STAGES\n",
        "cxr_node/cli/__init__.py": '"""Starts: all of it. Not told."""\n\nSTAGES = ("look", "send")\n',
        "cxr_node/look.py": "from storage import InstanceFiles\nfrom cxr_node.values import Value\n",
        "cxr_node/send.py": "import storage.jobs\n",
        "cxr_node/values.py": '"""What a value is."""\n',
        "storage/__init__.py": "",
        "storage/jobs.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def imported(material, part):
    """What a part imports, as the page has it."""
    return {row[0]: row[3] for row in table(material, "architecture.parts").rows}[f"`{part}`"]


@pytest.mark.requirement("SRS-REG-045")
def test_layers_stages_and_stores_are_drawn(root):
    """The diagrams of a small node, known beforehand."""
    made = architecture.gather(root)
    layers = chart(made, "architecture.layers")
    assert 'layer0["__main__, cli"]' in layers
    assert 'layer1["look, send"]' in layers
    assert "layer1 --> layer2" in layers
    assert "layer2 --> layer1" not in layers
    assert "layer1 --> storage" in layers
    processes = chart(made, "architecture.processes")
    assert "look <--> bytes" in processes
    assert "send <--> rows" in processes
    assert "send <--> bytes" not in processes
    assert ("`cxr_node.cli`", "Starts: all of it.") in table(made, "architecture.modules.cxr_node.cli").rows
    assert len(table(made, "architecture.contracts").rows) == 2


@pytest.mark.requirement("SRS-REG-045")
def test_an_import_that_is_new_is_an_arrow(root):
    """Also one inside of a function."""
    before = architecture.gather(root)
    assert imported(before, "cxr_node.values") == "nothing of the project"
    path = root / "cxr_node" / "values.py"
    path.write_text(path.read_text() + "\n\ndef later():\n    from storage import jobs\n\n    return jobs\n")
    after = architecture.gather(root)
    assert imported(after, "cxr_node.values") == "storage"
    assert "layer2 --> storage" in chart(after, "architecture.layers")
    assert "layer2 --> storage" not in chart(before, "architecture.layers")


@pytest.mark.requirement("SRS-REG-045")
def test_a_stage_that_is_new_is_told(root):
    """The supervisor's list is the page's."""
    edit(root / architecture.STAGES, '("look",', '("extra", "look",')
    assert "supervisor -. starts .-> extra" in chart(architecture.gather(root), "architecture.processes")


@pytest.mark.requirement("SRS-REG-045")
def test_a_package_in_no_layer_fails_the_build(root):
    """It would be on no diagram."""
    (root / "cxr_node" / "stray.py").write_text('"""Stray."""\n')
    with pytest.raises(BuildError, match=r"no layer .* holds cxr_node\.stray"):
        architecture.gather(root)


@pytest.mark.requirement("SRS-REG-045")
def test_every_stage_reaches_the_database_and_every_part_is_on_the_page():
    """The stages of this node meet there and nowhere else."""
    made = architecture.gather(ROOT)
    shown = chart(made, "architecture.processes")
    for stage in ("receive", "analyze", "deliver", "worklist", "orders", "upkeep", "fetch"):
        assert f"{stage} <--> rows" in shown
    assert "receive <--> bytes" in shown
    assert "orders <--> bytes" not in shown
    shown_parts = [item.id.removeprefix("architecture.modules.") for item in made.tables if ".modules." in item.id]
    assert shown_parts == figure(made, "architecture.parts").value
