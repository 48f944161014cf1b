"""The record of a test run, `regulatory/evidence/tests.json`: what each requirement's tests came to.

`make evidence` writes it (the plug-in is tests/evidence.py). It is small: counts for each requirement, and the names of
tests that failed; which tests those were is held by a digest of their names, so that a test that was added, renamed or
deleted afterwards shows.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATH = Path("regulatory") / "evidence" / "tests.json"
COMMAND = "make evidence"


def source_of(root: Path, *others: str) -> str:
    """Return the source of something that a run's results are part of: the record only where there is one."""
    return ", ".join([*others, *([PATH.as_posix()] if (root / PATH).exists() else [])])


def command_of(root: Path, *others: str) -> str:
    """Return the commands behind something that a run's results are part of: the run's only where there is one."""
    return ", ".join([*others, *([COMMAND] if (root / PATH).exists() else [])])


def digest_of(ids: Iterable[str]) -> str:
    """Return a digest of test functions by name ("tests/…/test_x.py::test_y", without parameters), in any order."""
    return hashlib.sha256("\n".join(sorted(set(ids))).encode()).hexdigest()[:16]


@dataclass
class _Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    functions: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)

    def add(self, function: str, outcome: str) -> None:
        self.functions.add(function)
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome == "failed":
            self.failing.add(function)


class Record:
    """Gathers outcomes, one for each test with its parameters."""

    def __init__(self) -> None:
        self._outcomes: dict[str, tuple[str, tuple[str, ...]]] = {}

    def add(self, nodeid: str, requirements: Iterable[str], outcome: str) -> None:
        """Take what one phase (setup, call, teardown) of a test came to: the worst phase counts.

        Parameters
        ----------
        nodeid : as pytest writes it, with parameters
        outcome : `passed`, `failed` or `skipped`
        """
        rank = ("passed", "skipped", "failed")
        before, named = self._outcomes.get(nodeid, ("passed", ()))
        # What ends with its whole process is reported by another, which knows no requirements of it.
        self._outcomes[nodeid] = (max(before, outcome, key=rank.index), tuple(requirements) or named)

    def document(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is written; `about` (command, day, commit, machine) comes first."""
        total, by_requirement = _Counts(), dict[str, _Counts]()
        for nodeid, (outcome, requirements) in self._outcomes.items():
            function = nodeid.split("[")[0]
            total.add(function, outcome)
            for name in requirements:
                by_requirement.setdefault(name, _Counts()).add(function, outcome)
        return {
            **about,
            "passed": total.passed,
            "failed": total.failed,
            "skipped": total.skipped,
            "failing": sorted(total.failing),
            "requirements": {
                name: {
                    "passed": counts.passed,
                    "failed": counts.failed,
                    "skipped": counts.skipped,
                    "tests_sha256": digest_of(counts.functions),
                    "failing": sorted(counts.failing),
                }
                for name, counts in sorted(by_requirement.items())
            },
        }
