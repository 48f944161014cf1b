"""Fixtures that every test may use: peers, real data, a storage of its own."""

import logging
import os
import shutil
import sys
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_node.log import configure_fallback
from tests.evidence import pytest_addoption, pytest_configure  # noqa: F401  # hooks of `--evidence FILE`

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("CXR_NODE_TEST_DATA", ROOT.parent / "shared" / "data"))
IN_CI = os.environ.get("CI") == "true"


# Files of minutes, see `pytest_collection_modifyitems`.
LONG = frozenset(
    {
        "test_trained_package.py",
        "test_kill.py",
        "test_kill_node.py",
        "test_hosts.py",
        "test_distribute.py",
        "test_a_day.py",
        "test_real_files.py",
        "test_bytes_elsewhere.py",
        "test_closed_to_strangers.py",
    }
)

# An activated environment puts pynetdicom's own `storescp` and `findscu` first; the peers here are DCMTK's.
os.environ["PATH"] = os.pathsep.join(
    folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder != sysconfig.get_path("scripts")
)


def find_program(name: str) -> str | None:
    """Return the path of a peer program, looking where Debian puts daemons too."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/usr/lib/postgresql/15/bin")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a peer or real data that this machine lacks; in CI such a test runs and fails.

    Files whose tests take minutes come first: several processes share the rest, and none ends with a long one alone.
    """
    items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        for marker in item.iter_markers("peer"):
            for program in marker.args:
                if find_program(program) is None:
                    _miss(item, f"peer {program} is not installed")
        if item.get_closest_marker("real_data") and not SHARED_DATA.is_dir():
            _miss(item, f"real images not found at {SHARED_DATA}")


def _miss(item: pytest.Item, reason: str) -> None:
    if IN_CI:
        item.fixturenames.insert(0, "missing_in_ci")  # type: ignore[attr-defined]
        item.user_properties.append(("missing", reason))
    else:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def missing_in_ci(request: pytest.FixtureRequest) -> None:
    """Fail: CI must have every peer and the real data."""
    pytest.fail("; ".join(value for key, value in request.node.user_properties if key == "missing"))


# Its stylesheets are larger than what newer Java admits. For a process of seconds the first compiler and the simplest
# collector do: with the others it takes twice the processor time.
PIXELMED_JAVA = " ".join(
    (
        *(f"-Djdk.xml.{name}=0" for name in ("xpathExprOpLimit", "xpathTotalOpLimit", "xpathExprGrpLimit")),
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
    )
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images (see its PROVENANCE.md)."""
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """A test that configures logging, as every command does, leaves a stream behind that pytest closes."""
    root = logging.getLogger()
    handlers, level, folder = root.handlers[:], root.level, tempfile.tempdir
    mask = os.umask(0)
    os.umask(mask)
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning
    yield
    os.umask(mask)
    sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning = hooks
    tempfile.tempdir = folder  # the receiver points it at its spool, for its whole process
    root.handlers[:] = handlers
    root.setLevel(level)
    configure_fallback()
