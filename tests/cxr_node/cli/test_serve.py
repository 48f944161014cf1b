"""The supervisor's decisions, apart from its processes."""

import threading

import pytest

from cxr_node.cli.serve import HEALTHY_AFTER_S, LONGEST_BACKOFF_S, AlreadyRunning, Stage, Supervisor, stages_of
from cxr_node.settings import load_settings

pytestmark = pytest.mark.requirement("SRS-CLI-001")


def test_every_stage_runs_once_and_analyze_as_often_as_told():
    """One binary from a laptop to a fleet."""
    settings = load_settings(None, {"CXR_NODE__ANALYZE__WORKERS": "3"})
    names = [stage.name for stage in stages_of(settings)]
    assert sorted(set(names)) == ["analyze", "deliver", "receive", "upkeep", "worklist"]
    assert names.count("analyze") == 3


def test_a_stage_that_keeps_dying_is_restarted_ever_more_slowly():
    """A stage that cannot start must not eat the machine; one that slipped once must not be missed."""
    stage = Stage("analyze")
    waits = [stage.died(now=float(index)) for index in range(9)]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_BACKOFF_S


def test_a_stage_that_ran_well_starts_its_backoff_anew():
    """A crash a week is no crash loop."""
    stage = Stage("analyze")
    for _ in range(5):
        stage.died(now=0.0)
    stage.started_at = 100.0
    assert stage.died(now=100.0 + HEALTHY_AFTER_S) == 0.0


def test_two_supervisors_never_share_a_data_folder(tmp_path):
    """Two receivers on one port, two sweeps of one spool: the second is refused before it does anything."""
    settings = load_settings(None, {"CXR_NODE__NODE__DATA_DIR": str(tmp_path)})
    (tmp_path / "run").mkdir()
    import fcntl

    with (tmp_path / "run" / "serve.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning, match=str(tmp_path)):
            Supervisor(settings, None).run(threading.Event())
