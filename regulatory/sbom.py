"""`python -m regulatory.sbom`: the software bill of materials, CycloneDX 1.6 JSON, in regulatory/sbom.cdx.json.

Made of requirements.lock, the vendored web files of soup.toml, the model packages, licences.toml and datasets.toml; the
same sources give the same bytes, so it bears no time and no serial number. Models name the data sets that they learned
from and were measured on, which are components too, though no part of what is installed. What the operating system
brings (Python, OpenSSL, SQLite, PostgreSQL, GPU drivers) is not in it: that is the site's, or the container image's.
"""

import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from regulatory.lock import OWN, ROOT, Locked, read_lock

TARGET = ROOT / "regulatory" / "sbom.cdx.json"
LICENCES = ROOT / "regulatory" / "licences.toml"
DATASETS = ROOT / "regulatory" / "datasets.toml"
PACKAGES = ROOT / "cxr_node" / "packages"
SPEC_VERSION = "1.6"

# How the makers' files are called on npm.
_NPM = {"htmx": "htmx.org", "idiomorph-ext": "idiomorph", "htmx-ext-sse": "htmx-ext-sse"}
_VENDORED = re.compile(r"^(?P<name>[a-z-]+)-(?P<version>\d+\.\d+\.\d+)\.min\.js$")


def bill() -> dict[str, Any]:
    """Return the document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    soup = tomllib.loads((ROOT / "regulatory" / "soup.toml").read_text(encoding="utf-8"))
    licences = tomllib.loads(LICENCES.read_text(encoding="utf-8"))
    locked = read_lock()
    web = [_web(name, about, licences) for name, about in sorted(soup["vendored"].items())]
    manifests = sorted(PACKAGES.glob("*/manifest.json"))
    models = [_model(path) for path in manifests]
    data = _datasets(manifests)
    own = {
        "type": "application",
        "bom-ref": f"pkg:pypi/{OWN}@{project['version']}",
        "name": OWN,
        "version": project["version"],
        "description": project["description"],
        "purl": f"pkg:pypi/{OWN}@{project['version']}",
    }
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {"component": own},
        "components": [*(_python(item, soup, licences) for item in locked), *web, *models, *data],
        "dependencies": _dependencies(str(own["bom-ref"]), locked, [*web, *models], models),
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(bill(), indent=1, ensure_ascii=False, sort_keys=False) + "\n"


def _python(item: Locked, soup: dict[str, Any], licences: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": _ref(item),
        "name": item.name,
        "version": item.version,
        "purl": f"pkg:pypi/{item.name}@{item.version}",
    }
    for part in ("runtime", "train"):
        if item.name in soup[part]:
            made["description"] = soup[part][item.name]
    made |= _licence(item.name, licences)
    # Each hash is that of one file of the release: wheels of the platforms, and the source.
    hashes = [{"alg": "SHA-256", "content": content} for content in item.hashes]
    made["externalReferences"] = [
        {"type": "distribution", "url": f"https://pypi.org/project/{item.name}/{item.version}/", "hashes": hashes}
    ]
    if item.marker:
        made["properties"] = [{"name": "cxr-node:installed-where", "value": item.marker}]
    return made


def _web(name: str, about: dict[str, str], licences: dict[str, Any]) -> dict[str, Any]:
    match = _VENDORED.match(name)
    if match is None:
        raise ValueError(f"soup.toml: vendored file {name!r}, expected name-1.2.3.min.js")
    npm = _NPM[match["name"]]
    purl = f"pkg:npm/{npm}@{match['version']}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": npm,
        "version": match["version"],
        "description": about["reason"],
        "hashes": [{"alg": "SHA-256", "content": about["sha256"]}],
        **_licence(npm, licences),
        "purl": purl,
        "properties": [{"name": "cxr-node:file", "value": name}],
    }


def _model(path: Path) -> dict[str, Any]:
    """A model package; its digest is the SHA-256 of the manifest, which names the SHA-256 of every other file."""
    data = path.read_bytes()
    manifest = json.loads(data)
    name = f"{manifest['name']}@{manifest['version']}"
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{name}",
        "name": manifest["name"],
        "version": manifest["version"],
        "description": manifest["title"],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}],
        "modelCard": {
            "modelParameters": {
                "modelArchitecture": str(manifest["architecture"]),
                "datasets": [{"ref": _dataset_ref(manifest)}],
            },
            "considerations": {"technicalLimitations": list(manifest["limitations"])},
        },
        "properties": [{"name": "cxr-node:architecture", "value": str(manifest["architecture"])}],
    }


def _dataset_ref(manifest: dict[str, Any]) -> str:
    return f"data:{manifest['training']['cohort']['name']}"


def _datasets(paths: list[Path]) -> list[dict[str, Any]]:
    """A component for each cohort that a manifest names, with the parts that each package made of it.

    Raises
    ------
    ValueError
        datasets.toml has no row for a cohort, or one for none.
    """
    stated = tomllib.loads(DATASETS.read_text(encoding="utf-8"))
    manifests = [json.loads(path.read_bytes()) for path in paths]
    cohorts = {manifest["training"]["cohort"]["name"] for manifest in manifests}
    if cohorts != set(stated):
        raise ValueError(f"datasets.toml: rows for {sorted(stated)}, expected {sorted(cohorts)}")
    made = []
    for name in sorted(cohorts):
        about = stated[name]
        parts = [
            {
                "name": f"cxr-node:{manifest['name']}:{part}",
                "value": f"{counts['images']} images of {counts['patients']} patients, sha256 {counts['sha256']}",
            }
            for manifest in manifests
            if manifest["training"]["cohort"]["name"] == name
            for part, counts in manifest["training"]["cohort"]["parts"].items()
        ]
        spdx = bool(re.fullmatch(r"[A-Za-z0-9.-]+", about["licence"]))
        made.append(
            {
                "type": "data",
                "bom-ref": f"data:{name}",
                "supplier": {"name": about["supplier"], "url": [about["url"]]},
                "name": name,
                "description": about["citation"],
                "licenses": [{"license": {"id" if spdx else "name": about["licence"]}}],
                "data": [
                    {
                        "type": "dataset",
                        "name": name,
                        "classification": "public, de-identified by its supplier",
                        "description": f"{about['population']}; {about['reference']}",
                    }
                ],
                "properties": parts,
            }
        )
    return made


def _licence(name: str, licences: dict[str, Any]) -> dict[str, Any]:
    if name in licences["expressions"]:
        return {"licenses": [{"expression": licences["expressions"][name]}]}
    if name in licences["named"]:
        return {"licenses": [{"license": {"name": licences["named"][name]}}]}
    if name in licences["unknown"]:
        return {}
    raise ValueError(f"licences.toml: no row for {name}")


def _ref(item: Locked) -> str:
    """Two versions of one name may stand in the lock, for different Pythons."""
    return f"pkg:pypi/{item.name}@{item.version}"


def _dependencies(
    own: str, locked: tuple[Locked, ...], others: list[dict[str, Any]], models: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    refs: dict[str, list[str]] = {}
    for item in locked:
        refs.setdefault(item.name, []).append(_ref(item))
    needs: dict[str, set[str]] = {own: {str(item["bom-ref"]) for item in others}}
    for item in locked:
        needs.setdefault(_ref(item), set())
        for asking in item.via:
            for parent in [own] if asking == OWN else refs[asking]:
                needs.setdefault(parent, set()).add(_ref(item))
    for model in models:
        needs[model["bom-ref"]] = {row["ref"] for row in model["modelCard"]["modelParameters"]["datasets"]}
    return [{"ref": ref, "dependsOn": sorted(needs[ref])} for ref in sorted(needs)]


def main() -> int:
    """Write it."""
    TARGET.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{TARGET.relative_to(ROOT)}: {len(bill()['components'])} components\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
