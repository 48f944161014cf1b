"""Charts of monitoring reach people: Health, the charts page, metrics; and two models on the same studies."""

from datetime import UTC, datetime

import pytest

from cxr_node.findings.monitoring.cusum import Chart, Sums
from cxr_node.findings.monitoring.watch import Watch
from cxr_node.worklist.figures import agreement, mcnemar
from cxr_node.worklist.web.admin.condition import look
from cxr_node.worklist.web.admin.monitors import told
from cxr_node.worklist.web.admin.troubles import troubles_of
from storage import monitoring
from storage.monitoring import Monitor
from storage.statistics import Comparison

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHART = Chart(0.25, 0.43, 0.25, 10.0, 10_000.0, 500)


def monitor(name: str, alarm: str = "", **state) -> Monitor:
    at = NOON if alarm else None
    return Monitor(name, "d" * 64, "pneumonia", "pneumonia-adult", "0.2.0", alarm, at, state, NOON, NOON)


def summed(name: str, up: float, alarm: str = "") -> Monitor:
    return monitor(name, alarm, watch=Watch(chart=CHART, sums=Sums(up, 0.0, 90), alarm=alarm).to_json())


FOUND = [
    summed("flag", 12.0, "up"),
    summed("score", 5.0),
    monitor("refused", watch=Watch(learned=(0.0, 1.0)).to_json()),
    monitor(
        "shift-age",
        "shift",
        images=200,
        has_reference=True,
        site={"before": 500, "recent": 200, "index": 0.5, "chance": 0.1, "word": "large shift"},
        package={"before": 129, "recent": 200, "index": 1.2, "chance": 0.3, "word": "large shift"},
    ),
    monitor("shift-sex", images=0, has_reference=False, site=None, package=None),
]


@pytest.fixture
def watched(database):
    with database.begin() as connection:
        for item in FOUND:
            monitoring.save(connection, item)
    return database


@pytest.mark.requirement("SRS-MON-009")
def test_health_names_what_moved_and_where_to_look(watched, settings):
    """One sentence an alarm; a chart that learns or is as usual is no trouble."""
    sentences = {item.sentence: item.href for item in troubles_of(look(settings, watched, NOON))}
    flag = "Flag rate of studies of pneumonia-adult 0.2.0 has risen, noticed on 2026-03-01."
    age = "What comes in is not what it was of pneumonia-adult 0.2.0: shift of age, noticed on 2026-03-01."
    assert sentences[flag] == sentences[age] == "/admin/charts#h-monitoring"
    assert not any("mean probability" in sentence for sentence in sentences)


@pytest.mark.requirement("SRS-MON-009")
def test_the_charts_page_shows_every_chart_and_says_what_is_not_compared(watched, client, sign_in):
    """Also what learns, and where the package has nothing to compare with."""
    sign_in(client, "admin")
    page = client.get("/admin/charts?days=7").text
    section = page[page.index('id="h-monitoring"') :]
    section = section[: section.index("</section>")]
    for words in ("has risen", "as usual", "learns: 2 so far", "no reference: not compared", "1.200", "1.20"):
        assert words in section
    assert "cxr-node monitor reset" in section


@pytest.mark.requirement("SRS-MON-009")
def test_metrics_tell_alarm_level_and_index(watched, client, sign_in):
    """What an alarm outside the node is set on."""
    sign_in(client, "admin")
    text = client.get("/metrics").text
    labels = 'chart="flag",finding="pneumonia",model="pneumonia-adult"'
    assert f"cxr_monitor_alarm{{{labels}}} 1.0" in text
    assert f"cxr_monitor_level{{{labels}}} 1.2" in text
    assert 'cxr_monitor_alarm{chart="score",finding="pneumonia",model="pneumonia-adult"} 0.0' in text
    assert 'cxr_monitor_learning{chart="refused",finding="pneumonia",model="pneumonia-adult"} 1.0' in text
    against = 'cxr_monitor_stability_index{against="package",chart="shift-age",finding="pneumonia"'
    assert against in text


@pytest.mark.requirement("SRS-MON-002")
def test_a_package_without_a_reference_is_told_as_such():
    """An empty column would look like agreement."""
    beside = {item.monitor.name: item.beside for item in told(FOUND)}
    assert beside["shift-sex"] == "no reference: not compared"
    assert beside["shift-age"] == "1.200"


@pytest.mark.requirement("SRS-MON-013")
@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (2, 10, 0.03857)]
)
def test_mcnemars_p_is_that_of_the_binomial(only_first, only_second, expected):
    """Twice the smaller tail of a fair coin over the studies that one model alone would flag."""
    assert mcnemar(only_first, only_second) == pytest.approx(expected, abs=1e-5)


@pytest.mark.requirement("SRS-MON-013")
def test_flag_rates_of_two_models_are_compared_on_the_same_studies():
    """Nobody scored: nothing is said."""
    assert agreement(Comparison()).rates_p is None
    assert agreement(Comparison(50, 2, 10, 400)).rates_p == pytest.approx(0.03857, abs=1e-5)
