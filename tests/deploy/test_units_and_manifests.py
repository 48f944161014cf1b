"""Unit files, container files and cluster manifests, as far as they can be checked without the systems they are for."""

import argparse
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from cxr_node.cli import STAGES, build_parser
from cxr_node.settings import load_settings
from tests.conftest import ROOT, find_program

DEPLOY = ROOT / "deploy"
SYSTEMD = DEPLOY / "systemd"
KUBERNETES = DEPLOY / "kubernetes"
MOST_EXPOSED = 3.0  # of 10; a unit without fences has 9.6


def commands() -> set[str]:
    """What `cxr-node` can be told."""
    [choices] = [action.choices for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return set(choices)


def documents(name: str) -> list[dict]:
    """The objects of one manifest."""
    return [item for item in yaml.safe_load_all((KUBERNETES / name).read_text("utf-8")) if item]


def manifests() -> list[str]:
    """The files that hold objects."""
    return sorted(path.name for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")


@pytest.mark.requirement("SRS-DEP-001")
@pytest.mark.peer("systemd-analyze")
@pytest.mark.parametrize("unit", ["cxr-node.service", "cxr-node@.service"])
def test_systemd_takes_the_unit_and_finds_it_fenced(tmp_path, unit):
    """With a program where the unit expects one; the drop-ins are looked at with it."""
    name = unit.replace("@.", "@analyze.")
    program = tmp_path / "cxr-node"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", (SYSTEMD / unit).read_text("utf-8"))
    text = re.sub(r"(?m)^Documentation=.*\n", "", text)
    (tmp_path / name).write_text(text)
    drop_ins = tmp_path / f"{name}.d"
    drop_ins.mkdir()
    for path in SYSTEMD.glob("*.conf"):
        (drop_ins / path.name).write_text(path.read_text("utf-8"))
    analyze = str(find_program("systemd-analyze"))
    verified = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert name not in verified.stderr, verified.stderr
    assert verified.returncode == 0, verified.stderr
    rated = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", rated.stdout)
    assert exposure is not None, rated.stdout + rated.stderr
    assert float(exposure[1]) <= MOST_EXPOSED


@pytest.mark.requirement("SRS-DEP-001")
def test_units_start_commands_that_there_are():
    """A template's instances are the stages."""
    for path in SYSTEMD.glob("*.service"):
        [line] = re.findall(r"(?m)^ExecStart=(.*)$", path.read_text("utf-8"))
        command = shlex.split(line)[-1]
        assert command in commands() or (command == "%i" and set(STAGES) <= commands())


@pytest.mark.requirement("SRS-DEP-005")
def test_the_image_is_built_from_what_there_is_and_runs_as_nobody_special():
    """Not built here: without a registry there is no base image. What can be read is read."""
    lines = (DEPLOY / "container" / "Containerfile").read_text("utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copied
    for sources in copied:
        for source in sources:
            assert (ROOT / source).exists(), source
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert int(user.split(":")[0]) > 0
    [command] = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    assert set(command) <= commands()
    assert any("--require-hashes" in line for line in lines)


@pytest.mark.requirement("SRS-DEP-005")
def test_compose_fits_its_schema_and_mounts_files_that_there_are():
    """The schema is the one of the Compose Specification."""
    path = DEPLOY / "container" / "compose.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = yaml.safe_load(path.read_text("utf-8"))
    for name, service in content["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in content["volumes"] or (path.parent / source).is_file(), (name, source)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


@pytest.mark.requirement("SRS-DEP-005")
@pytest.mark.parametrize("folder", ["container", "kubernetes"])
def test_the_configuration_beside_it_is_valid(folder):
    """It is what an admin starts from."""
    settings = load_settings(DEPLOY / folder / "node.toml", {})
    assert settings.database_url.startswith("postgresql+psycopg://")
    assert settings.receive.host == "0.0.0.0"


@pytest.mark.requirement("SRS-DEP-006")
@pytest.mark.parametrize("name", manifests())
def test_manifests_fit_the_schema_of_kubernetes(name):
    """Every object, and no key that the schema does not know. Not applied here: there is no cluster."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for item in documents(name):
        kubernetes_validate.validate(item, "1.30", strict=True)


@pytest.mark.requirement("SRS-DEP-006")
def test_the_kustomization_names_every_manifest():
    """A file that is not named is not applied."""
    content = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))
    assert sorted(content["resources"]) == manifests()


@pytest.mark.requirement("SRS-DEP-006")
def test_each_stage_is_deployed_probed_and_confined():
    """Restricted as the namespace demands, with probes that ask what the stage can answer."""
    found = {}
    for name in manifests():
        for item in documents(name):
            if item["kind"] == "Deployment":
                [container] = item["spec"]["template"]["spec"]["containers"]
                found.setdefault(container["args"][0], []).append(container)
    assert set(found) == set(STAGES) - {"orders"}  # a site with an HL7 feed adds it: README.md there
    for containers in found.values():
        for container in containers:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            for probe in ("startupProbe", "livenessProbe"):
                action = container[probe].get("exec")
                assert action is None or action["command"][3] in commands()


@pytest.mark.requirement("SRS-DEP-006")
def test_services_disruption_budgets_and_scaling_meet_a_deployment():
    """A selector that meets nothing protects nothing."""
    labels, names = set(), set()
    others = []
    for name in manifests():
        for item in documents(name):
            if item["kind"] == "Deployment":
                labels.add(item["spec"]["template"]["metadata"]["labels"]["cxr-node/stage"])
                names.add(item["metadata"]["name"])
            else:
                others.append(item)
    for item in others:
        selector = item.get("spec", {}).get("selector", {})
        wanted = selector.get("cxr-node/stage") or selector.get("matchLabels", {}).get("cxr-node/stage")
        if item["kind"] in ("Service", "PodDisruptionBudget"):
            assert wanted in labels, item["metadata"]["name"]
        if item["kind"] == "HorizontalPodAutoscaler":
            assert item["spec"]["scaleTargetRef"]["name"] in names


@pytest.mark.requirement("SRS-DEP-007")
def test_the_neighbours_know_the_node_by_its_names():
    """AE titles and ports are those that the node's own configuration has."""
    orthanc = json.loads((DEPLOY / "neighbours" / "orthanc.json").read_text("utf-8"))
    settings = load_settings(DEPLOY / "container" / "node.toml", {})
    peer = orthanc["DicomModalities"]["cxr-node"]
    assert (peer["AET"], peer["Port"]) == (settings.receive.ae_title, settings.receive.port)
    [pacs] = settings.destination
    assert (pacs.ae_title, pacs.port) == (orthanc["DicomAet"], orthanc["DicomPort"])
    assert any(caller.ae_title == orthanc["DicomAet"] for caller in settings.caller)
