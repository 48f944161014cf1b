"""What the product is called and which models it brings: figures that every page may need."""

import json
import tomllib
from pathlib import Path

from regulatory.figures import Figure, Material

_TRAINED = "cxr-train export"


def gather(root: Path) -> Material:
    """Return the version of the software and the version, size and intended ages of each released package."""
    version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    packages = sorted(path.parent.name for path in (root / "cxr_node" / "packages").glob("*/manifest.json"))
    figures = [
        Figure("product.version", version, version, "pyproject.toml", "project.version", says="the software's version"),
        Figure(
            "product.packages",
            packages,
            str(len(packages)),
            "cxr_node/packages",
            says="number of released model packages",
        ),
    ]
    for name in packages:
        source = f"cxr_node/packages/{name}/manifest.json"
        manifest = json.loads((root / source).read_text("utf-8"))
        figures.append(
            Figure(
                f"product.{name}.version",
                manifest["version"],
                str(manifest["version"]),
                source,
                "/version",
                _TRAINED,
                f"version of the package {name}",
            )
        )
    return Material(figures=tuple(figures))
