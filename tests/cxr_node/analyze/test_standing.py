"""What analyze says of itself with each sign of life."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cxr_node.analyze.standing import gpus, standing

pytestmark = pytest.mark.requirement("SRS-ADM-105")


@pytest.fixture
def driver_says(tmp_path, monkeypatch):
    """Put a tool of that name on the path, which prints that and ends with that status."""

    def put(text: str, status: int = 0) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


@pytest.mark.parametrize(
    ("text", "status", "found"),
    [
        (
            "NVIDIA H200, 2048, 143771\nNVIDIA T4, 0, 15360",
            0,
            [
                {"name": "NVIDIA H200", "used_mib": 2048, "total_mib": 143771},
                {"name": "NVIDIA T4", "used_mib": 0, "total_mib": 15360},
            ],
        ),
        ("NVIDIA H200, [N/A], [N/A]", 0, []),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, []),
        ("", 0, []),
    ],
)
def test_the_gpu_is_what_the_drivers_tool_says(driver_says, text, status, found):
    """A driver that is broken must not keep the stage from saying that it lives."""
    driver_says(text, status)
    assert gpus() == found


def test_without_the_tool_there_is_no_gpu(tmp_path, monkeypatch):
    """Most nodes run on a processor."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []


def test_the_models_are_told_once_they_are_loaded(tmp_path, monkeypatch):
    """Until then the stage lives and takes no study: it is starting."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert standing(None) == {"state": "loading models", "models": [], "gpus": []}
    assert standing(None, "converting a")["state"] == "converting a"

    def package(name: str) -> SimpleNamespace:
        return SimpleNamespace(manifest=SimpleNamespace(name=name, version="1.0.0"), digest=f"d-{name}", path=Path())

    engines = {
        "d-a": SimpleNamespace(name="savedmodel", trouble=""),
        "d-b": SimpleNamespace(name="litert", trouble="the GPU is no longer used"),
    }
    analyzer = SimpleNamespace(
        packages=(package("a"),),
        shadow=(package("b"),),
        devices=lambda: {"a": "GPU:0", "b": "CPU"},
        engine=lambda item: engines[item.digest],
    )
    said = standing(analyzer)  # type: ignore[arg-type]
    assert said["state"] == "ready"
    assert [(item["name"], item["role"], item["device"], item["engine"]) for item in said["models"]] == [
        ("a", "active", "GPU:0", "savedmodel"),
        ("b", "shadow", "CPU", "litert"),
    ]
    assert [item["trouble"] for item in said["models"]] == ["", "the GPU is no longer used"]
