"""The DICOM Conformance Statement of the default configuration, as `cxr-node conformance` prints it."""

from pathlib import Path

from cxr_node.cli.conformance import statement
from cxr_node.cli.conformance.blocks import markdown
from cxr_node.cli.conformance.services import listeners
from cxr_node.settings import Settings
from regulatory.figures import Figure, Material, Text

GENERATOR = "cxr_node/cli/conformance/__init__.py:statement"
COMMAND = "cxr-node conformance"


def gather(root: Path) -> Material:
    """Return the statement and what it counts; made of code and defaults, so `root` holds nothing of it."""
    settings = Settings()
    figures = []
    for listener in listeners(settings):
        syntaxes = {syntax for item in listener.contexts for syntax in item.transfer_syntaxes}
        for name, count, says in (
            ("classes", len(listener.contexts), f"SOP classes that the Application Entity {listener.entity} accepts"),
            ("transfer-syntaxes", len(syntaxes), f"transfer syntaxes that {listener.entity} accepts in some class"),
        ):
            source = f"{GENERATOR}, cxr_node/cli/conformance/services.py:{listener.key}_contexts"
            figures.append(
                Figure(f"conformance.{listener.key}.{name}", count, str(count), source, command=COMMAND, says=says)
            )
    text = markdown(statement(settings), first_level=3)
    return Material(
        figures=tuple(figures),
        texts=(Text("conformance.statement", text, f"{GENERATOR}, cxr_node/settings.py:Settings", COMMAND),),
    )
