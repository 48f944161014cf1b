"""Whether the node is ready, and why not: what intake and analysis say of themselves."""

from datetime import timedelta

import pytest

from storage import audit, heartbeats

pytestmark = pytest.mark.requirement("SRS-SYS-203")


@pytest.fixture
def ready(make_client, settings, database, clock):
    """Return a function that lets processes say things and asks whether the node is ready: the reasons."""
    analyze = settings.analyze.model_copy(update={"models": ("pneumonia-paediatric",)})
    client = make_client(settings.model_copy(update={"analyze": analyze}))

    def ask(*beats, refused="", ago_s=0.0):
        seen = clock.now - timedelta(seconds=ago_s)
        with database.begin() as connection:
            for process, (stage, state) in enumerate(beats):
                detail = {"state": state} if state else {}
                heartbeats.beat(connection, stage, f"h:{process}", started_at=seen, now=seen, detail=detail)
            if refused:
                detail = {"reason": refused, "serving": False}
                audit.record(connection, "models_not_loaded", actor="analyze", now=clock.now, detail=detail)
        answer = client.get("/readyz")
        assert answer.status_code == (503 if answer.json()["reasons"] else 200)
        return answer.json()["reasons"]

    return ask


def test_a_node_whose_models_are_being_converted_says_so(ready):
    """The first start takes a minute: who waits for it must not think that it hangs."""
    said = "converting pneumonia-adult for this computer, once"
    assert ready(("receive", ""), ("analyze", said)) == [f"analyze: {said}"]


def test_a_stage_that_was_started_and_said_nothing_yet_is_waited_for(ready):
    """The page is often up before intake or analysis are."""
    assert ready(("receive", "starting"), ("analyze", "starting")) == ["receive: starting", "analyze: starting"]


def test_one_process_that_serves_is_enough(ready):
    """A worker that is started beside others keeps no study waiting."""
    assert ready(("receive", ""), ("analyze", "ready"), ("analyze", "starting")) == []


def test_what_an_earlier_process_said_does_not_count_for_ever(ready):
    """A process that was killed leaves its last word behind."""
    assert ready(("analyze", "starting"), ago_s=31.0) == []


def test_a_package_that_the_stage_refuses_is_the_reason(ready):
    """Its files may be whole, so that looking at them tells nothing."""
    found = ready(("analyze", "starting"), refused="package old: scores of the golden inputs differ by 0.25")
    assert found == ["analyze: refuses to serve: package old: scores of the golden inputs differ by 0.25"]


@pytest.mark.requirement("SRS-INF-205")
def test_an_engine_that_had_to_leave_its_gpu_is_a_trouble_on_the_health_page(client, database, clock):
    """Studies go on, more slowly: nobody would notice until the queue is long."""
    from cxr_node.worklist.web.admin.condition import look
    from cxr_node.worklist.web.admin.troubles import troubles_of

    model = {"name": "old", "version": "1.0.0", "digest": "d" * 64, "role": "active", "engine": "savedmodel"}
    bad = {**model, "engine": "litert", "device": "CPU", "trouble": "the GPU is no longer used: it failed"}
    with database.begin() as connection:
        for process, item in (("h:1", bad), ("h:2", {**model, "device": "GPU", "trouble": ""})):
            detail = {"state": "ready", "models": [item]}
            heartbeats.beat(connection, "analyze", process, started_at=clock.now, now=clock.now, detail=detail)
    settings = client.app.state.services.settings
    sentences = [trouble.sentence for trouble in troubles_of(look(settings, database, clock.now))]
    assert "old 1.0.0 runs slower than meant: the GPU is no longer used: it failed." in sentences
