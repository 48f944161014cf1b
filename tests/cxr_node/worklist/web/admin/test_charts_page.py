"""Charts: days of the site, intervals, limits, the same numbers as a table; drawn on the server."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest

from cxr_node.worklist.web.admin import charts
from cxr_node.worklist.web.admin.charts import Point
from cxr_node.worklist.web.admin.statistics import count, day_bounds
from storage import studies

pytestmark = pytest.mark.requirement("SRS-ADM-208")

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def admin(client, sign_in):
    sign_in(client, "admin")
    return client


@pytest.fixture
def busy(ward, database):
    """Five studies of today and one of yesterday; two flagged, one of them confirmed."""
    for number in range(2):
        ward.add(f"1.{number}", flagged=True)
    ward.add("1.2")
    ward.add("1.3", status="not_analysed")
    ward.add("1.4", status="failed")
    ward.add("1.5", waited_min=24 * 60)
    with database.begin() as connection:
        studies.set_verdict(connection, "1.0", "agree")
        studies.set_verdict(connection, "1.1", "disagree")
        studies.set_verdict(connection, "1.2", "agree")
        studies.set_verdict(connection, "1.5", "unsure")


def test_a_day_begins_when_the_sites_clock_says_so():
    """A night shift's studies must not fall on the wrong day; the day the clocks change has 23 hours."""
    bounds = day_bounds(datetime(2026, 3, 29, 23, 30, tzinfo=UTC), BERLIN, 2)
    assert [day.isoformat() for day, _, _ in bounds] == ["2026-03-29", "2026-03-30"]
    since, until = bounds[0][1].astimezone(UTC), bounds[0][2].astimezone(UTC)
    assert (since, until - since) == (datetime(2026, 3, 28, 23, tzinfo=UTC), timedelta(hours=23))


def test_figures_are_those_of_the_studies(database, busy, clock):
    """Of five today two are flagged of three analysed: a study that was not analysed could not be."""
    with database.read() as connection:
        found = count(connection, now=clock.now, zone=ZoneInfo("UTC"), days=7, thresholds={})
    today = found.days[-1]
    assert (today.studies, today.analysed, today.flagged, today.not_analysed, today.failed) == (5, 3, 2, 1, 1)
    assert (today.flag_rate.part, today.flag_rate.of) == (2, 3)
    assert (found.days[-2].studies, found.studies) == (1, 6)
    assert found.exclusions == {"body-part": 1}
    assert found.latency_p50_s == 1.0
    assert sum(hour.studies for hour in found.hours) == 6
    readers = found.readers
    assert (readers.ppv.part, readers.ppv.of) == (1, 2)
    assert (readers.agreement.part, readers.agreement.of, readers.unsure) == (2, 3, 1)


def test_every_chart_is_named_and_stands_as_a_table_too(admin, busy):
    """A chart that only eyes can read is none for some readers."""
    page = admin.get("/admin/charts?days=7").text
    drawn = re.findall(r"<svg viewBox=.*?</svg>", page, re.DOTALL)
    named = [svg for svg in drawn if 'role="img"' in svg]
    assert len(named) >= 5
    for svg in named:
        root = ElementTree.fromstring(svg)
        ids = {element.get("id") for element in root.iter() if element.get("id")}
        assert set(root.get("aria-labelledby").split()) <= ids
        assert root.find("title").text
        assert root.find("desc").text
    assert page.count("<summary>As a table") >= 5
    assert "not the truth" in page
    assert not re.search(r"<[^>]+ style=", page)


def test_the_api_and_the_csv_give_the_same_numbers(admin, busy):
    found = admin.get("/api/statistics?days=7").json()
    assert (found["studies"], found["readers"]["ppv"]["part"]) == (6, 1)
    assert found["readers"]["ppv"]["low"] == pytest.approx(0.0945, abs=1e-4)
    text = admin.get("/admin/charts.csv?days=7").text
    assert "2026-03-02,5,3,2,1,1,0" in text
    assert admin.get("/api/statistics?days=8").status_code == 422


def test_an_empty_node_has_charts_too(admin):
    """The first look on the first day."""
    page = admin.get("/admin/charts")
    assert page.status_code == 200
    assert "Nothing yet." in page.text
    assert admin.get("/api/statistics").json()["flag_rate"]["value"] is None


def test_figures_are_counted_once_a_minute(admin, ward):
    """Ten admins with the page open must not count for the node."""
    assert admin.get("/api/statistics").json()["studies"] == 0
    ward.add("1.1")
    assert admin.get("/api/statistics").json()["studies"] == 0


def test_bars_end_on_the_axis_and_ticks_are_round():
    drawn = charts.bars(["a", "b"], [0, 37], "studies")
    assert [tick.label for tick in drawn.up] == ["0", "10", "20", "30", "40"]
    assert {bar.y + bar.height for bar in drawn.bars} == {drawn.bottom}
    assert drawn.bars[0].height == 0
    assert charts.bars([], [], "studies").bars == ()


def test_a_day_without_a_value_is_a_gap_and_no_zero():
    drawn = charts.lines(["a", "b", "c"], [("one", "x", [Point(0.5, 0.4, 0.6), Point(None), Point(0.2, 0.1, 0.3)])])
    (series,) = drawn.series
    assert (len(series.lines), len(series.bands), len(series.dots)) == (2, 2, 2)


def test_rows_stay_within_their_chart_whatever_their_value():
    drawn = charts.rows([("x" * 50, Point(9.0), "9"), ("y", Point(None), "–")], limits=((0.25, "large"),))
    assert all(drawn.left <= row.to <= drawn.right for row in drawn.rows)
    assert len(drawn.rows[0].label) == 34
    assert drawn.limits[0].at > drawn.left
