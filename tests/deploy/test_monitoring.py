"""Alerts, dashboard and runbooks name what there is."""

import json
import re
import subprocess

import pytest
import yaml
from prometheus_client import REGISTRY

import cxr_node.metrics  # noqa: F401  # declares the metrics
from tests.conftest import ROOT, find_program

MONITORING = ROOT / "deploy" / "monitoring"
RUNBOOKS = ROOT / "deploy" / "runbooks"


def known_metrics() -> set[str]:
    """Every name that /metrics can show: declared ones, with the suffixes of their kind, and gauges made when asked."""
    names = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    for family in REGISTRY.collect():
        suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    for path in (ROOT / "cxr_node").rglob("*.py"):
        names |= set(re.findall(r"GaugeMetricFamily\(\s*\"(cxr_[a-z0-9_]+)\"", path.read_text("utf-8")))
    return names | {"up"}


def named_in(expression: str) -> set[str]:
    """The metrics of a PromQL expression."""
    return set(re.findall(r"\b(cxr_[a-z0-9_]+|up)\b(?=[\s{\[)]|$)", expression))


def alerts() -> list[dict]:
    """The rules of alerts.yml."""
    return yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]


@pytest.mark.requirement("SRS-DEP-004")
@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_there_are_and_has_a_runbook(rule):
    """An alert on a name that nobody writes never fires, and nobody notices."""
    found = named_in(rule["expr"])
    assert found
    assert found <= known_metrics()
    assert (ROOT / rule["annotations"]["runbook"]).is_file()


@pytest.mark.requirement("SRS-DEP-004")
def test_every_runbook_belongs_to_an_alert():
    """A page that no alert leads to is not kept up."""
    pages = {path.stem for path in RUNBOOKS.glob("Cxr*.md")}
    assert pages == {rule["alert"] for rule in alerts()}
    index = (RUNBOOKS / "README.md").read_text("utf-8")
    assert all(f"({name}.md)" in index for name in pages)


@pytest.mark.requirement("SRS-DEP-004")
def test_the_dashboard_draws_metrics_that_there_are():
    """An empty panel looks like a quiet night."""
    board = json.loads((MONITORING / "grafana" / "cxr-node.json").read_text("utf-8"))
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in board["panels"]:
        for target in panel["targets"]:
            found = named_in(target["expr"])
            assert found, panel["title"]
            assert found <= known_metrics(), panel["title"]


@pytest.mark.requirement("SRS-DEP-004")
@pytest.mark.peer("promtool")
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_prometheus_itself_takes_the_alerts(command):
    """Its own tool checks the language, and runs the alerts over made-up series."""
    done = subprocess.run(
        [str(find_program("promtool")), *command], cwd=MONITORING, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.requirement("SRS-DEP-004")
@pytest.mark.peer("promtool")
def test_prometheus_itself_takes_its_configuration(tmp_path):
    """With the token's file where compose puts it."""
    token = tmp_path / "token"
    token.write_text("x")
    text = (MONITORING / "prometheus.yml").read_text("utf-8").replace("/run/secrets/metrics_token", str(token))
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "alerts.yml").write_text((MONITORING / "alerts.yml").read_text("utf-8"))
    done = subprocess.run(
        [str(find_program("promtool")), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
