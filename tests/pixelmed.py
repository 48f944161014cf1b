"""pixelmed's validator of structured reports, for many files in one process.

Its stylesheets have six megabytes: to read them takes five times as long as to validate a file. Its program takes one
file; where Java has its compiler, a program of ten lines calls the same class for each, and elsewhere a process does.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import PIXELMED_JAVA, find_program

JAR = Path("/usr/share/java/pixelmed.jar")
OF_FILES = Path(__file__).parent / "PixelmedOfFiles.java"
FILE = "FILE "


def pixelmed_outputs(paths: Sequence[Path]) -> list[str]:
    """Return what DicomSRValidator prints for each file; that it came to an end is asserted."""
    outputs = _together(paths) if JAR.is_file() and find_program("javac") else [_alone(path) for path in paths]
    for path, output in zip(paths, outputs, strict=True):
        assert "IOD validation complete" in output, f"{path}:\n{output}"
    return outputs


def errors_in(output: str) -> list[str]:
    """Return the errors among what it printed; its exit status is always 0."""
    return [line for line in output.splitlines() if line.startswith("Error")]


def _run(*command: str) -> str:
    environment = {**os.environ, "JAVA_TOOL_OPTIONS": PIXELMED_JAVA}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    return done.stdout + done.stderr


def _alone(path: Path) -> str:
    return _run("DicomSRValidator", str(path))


def _together(paths: Sequence[Path]) -> list[str]:
    output = _run("java", "-cp", str(JAR), str(OF_FILES), *map(str, paths))
    said: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output.splitlines():
        if line.startswith(FILE):
            lines = said.setdefault(line.removeprefix(FILE), [])
        else:
            lines.append(line)
    assert list(said) == [str(path) for path in dict.fromkeys(paths)], output
    return ["\n".join(said[str(path)]) for path in paths]
