"""Plug-in of pytest that writes the record of a run for the regulatory file, where `--evidence FILE` is given.

With several processes each worker sends its tests' requirements along with their reports (`user_properties`), and the
process that hands out the tests writes the record, once.
"""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regulatory.evidence_record import Record

_PROPERTY = "requirement"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option; where it is not given nothing else here is used."""
    parser.addoption("--evidence", metavar="FILE", help="write the record of this run for the regulatory file")


def pytest_configure(config: pytest.Config) -> None:
    """Register what writes the record, in the workers too: they know which requirements a test names."""
    target = config.getoption("--evidence")
    if target:
        config.pluginmanager.register(Recorder(config, config.rootpath / target), "evidence-recorder")


class Recorder:
    """Gathers outcomes and writes them at the end."""

    def __init__(self, config: pytest.Config, target: Path) -> None:
        self._worker = hasattr(config, "workerinput")
        self._root = config.rootpath
        self._asked = " ".join(config.invocation_params.args)
        self._target = target
        self._record = Record()
        self._began = datetime.now(UTC)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for name in sorted({name for marker in item.iter_markers("requirement") for name in marker.args}):
                item.user_properties.append((_PROPERTY, name))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self._worker:
            names = sorted({str(value) for key, value in report.user_properties if key == _PROPERTY})
            self._record.add(report.nodeid, names, report.outcome)

    def pytest_sessionfinish(self) -> None:
        if self._worker:
            return
        about = {
            "command": f"pytest {self._asked}",
            "measured_on": self._began.date().isoformat(),
            "commit": _said(self._root, "git", "rev-parse", "--short", "HEAD"),
            "changed_since": bool(_said(self._root, "git", "status", "--porcelain", "--untracked-files=no")),
            "run_on": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        }
        self._target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._record.document(about), indent=1, ensure_ascii=False) + "\n"
        self._target.write_text(text, encoding="utf-8")


def _said(folder: Path, *command: str) -> str:
    """What a program says, "" where it is not there or has nothing to say."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
