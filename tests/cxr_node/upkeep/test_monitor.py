"""Monitoring in the database: every study once, nothing lost over a restart, changes found, alarms taken back."""

import logging
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Table, insert

from cxr_node.inference import BUILTIN, load_package
from cxr_node.inference.package import reference_of
from cxr_node.settings import Settings
from cxr_node.upkeep.monitor import LAG, reset, watch_models
from storage import audit, feedback, model_changes, monitoring, monitoring_tables, results, tables
from storage.monitoring import ImageMeasures
from storage.studies import BACKFILL
from tests.cxr_node.upkeep.conftest import NOW, Site

BASELINE = 120
MINUTE = timedelta(minutes=1)
TABLES = (
    tables.studies,
    tables.instances,
    monitoring_tables.image_measures,
    tables.predictions,
    tables.results,
)


@pytest.fixture(scope="module")
def package():
    return load_package(BUILTIN / "pneumonia-adult")


class Stream:
    """Puts analysed studies of one model into a database, a minute apart, as the stage that analyses would."""

    def __init__(self, site: Site, package, start=NOW - timedelta(days=6)) -> None:
        self.site, self.package, self.at, self.number = site, package, start, 0
        self.settings = Settings.model_validate(
            {
                **site.settings.model_dump(),
                "analyze": {"models": ["pneumonia-adult"]},
                "upkeep": {"monitor_baseline": BASELINE, "monitor_arl0": 2000.0},
            }
        )

    def add(self, probabilities, *, origin: str = "", images: int = 1, excluded=(), ages=None) -> None:
        """Rows as the stage writes them, all at once: the tests are about thousands."""
        made: dict[Table, list[dict]] = {table: [] for table in TABLES}
        manifest = self.package.manifest
        for place, value in enumerate(probabilities):
            self.at += MINUTE
            self.number += 1
            uid, at, is_excluded = f"2.25.{self.number}", self.at, place in excluded
            received = {"first_received_at": at, "last_received_at": at, "origin": origin}
            made[tables.studies].append({"study_instance_uid": uid, **received})
            for image in range(images):
                number = self.number * 10 + image
                named = {"sop_instance_uid": f"{uid}.{image}", "series_instance_uid": uid, "study_instance_uid": uid}
                stored = {"sop_class_uid": "1", "transfer_syntax_uid": "1", "size": 6, "location": f"{uid}.{image}"}
                made[tables.instances].append({"id": number, **named, **stored, "received_at": at})
                age = 50.0 if ages is None else float(ages[place])
                reason = "inverted-polarity" if is_excluded else ""
                row = ImageMeasures(number, at, reason, age, "F", "PA", "DX", 0.5, 0.2, 0.99)
                made[monitoring_tables.image_measures].append(vars(row))
                if not is_excluded:
                    # The first image of a study has its highest probability.
                    scores = dict.fromkeys(("score", "probability"), float(value) / (image + 1))
                    model = {"model_digest": self.package.digest, "finding": "pneumonia", "created_at": at}
                    model |= {"model": manifest.name, "model_version": manifest.version}
                    made[tables.predictions].append({"instance_id": number, **model, **scores})
            status = "not_analysed" if is_excluded else "analysed"
            result = {"study_instance_uid": uid, "revision": 1, "created_at": at, "status": status}
            made[tables.results].append({**result, "flagged": False, "ai_priority": "", "outcome": {}})
        with self.site.database.begin() as connection:
            for table in TABLES:
                if made[table]:
                    connection.execute(insert(table), made[table])

    def turn(self, after=2 * LAG):
        """Let upkeep take up what came, as long after the last study."""
        self.at += after
        return watch_models(self.site.database, self.settings, now=self.at)

    def chart(self, name: str):
        with self.site.database.read() as connection:
            [found] = [item for item in monitoring.listed(connection) if item.name == name]
        return found

    def sums(self, name: str) -> int:
        return self.chart(name).state["watch"]["sums"]["cases"]


@pytest.fixture
def stream(site, package):
    return Stream(site, package)


def usual(rng, number: int) -> np.ndarray:
    """Probabilities of a site where one in four is flagged at 0.379."""
    return np.where(rng.random(number) < 0.25, rng.uniform(0.4, 0.9, number), rng.uniform(0.02, 0.37, number))


@pytest.mark.requirement("SRS-MON-007")
def test_every_study_counts_once_over_restarts_and_with_all_its_images(stream):
    """Turns may fall anywhere; a study of three images is one case, by its highest probability."""
    rng = np.random.default_rng(1)
    for number in (7, 50, 63, 1, 30):
        stream.add(usual(rng, number), images=3)
        stream.turn()
        stream.turn()  # nothing new: nothing is counted again
    assert stream.sums("score") == stream.sums("flag") == 151 - BASELINE
    learned = stream.chart("flag").state["watch"]["chart"]
    assert learned["cases"] == BASELINE
    assert stream.sums("refused") == 3 * 151 - BASELINE
    assert stream.sums("not-analysed") == 151 - BASELINE


@pytest.mark.requirement("SRS-MON-007")
def test_more_studies_than_a_page_holds_are_all_counted(stream, monkeypatch):
    """After a week without upkeep there are thousands, and images of one study must not be torn apart."""
    monkeypatch.setattr("cxr_node.upkeep.monitor.PAGE", 16)
    stream.add(usual(np.random.default_rng(2), 150), images=3)
    stream.turn()
    assert stream.sums("score") == 150 - BASELINE
    assert stream.sums("refused") == 450 - BASELINE


@pytest.mark.requirement("SRS-MON-007")
def test_what_was_committed_late_is_taken_up_in_the_next_turn(stream):
    """A study takes its time from its beginning to its commit."""
    stream.add(usual(np.random.default_rng(3), 130))
    stream.turn(after=LAG / 2)
    before = stream.sums("score")
    stream.turn()
    assert (before, stream.sums("score")) == (128 - BASELINE, 130 - BASELINE)


@pytest.mark.requirement("SRS-MON-007")
def test_studies_of_a_back_catalogue_run_are_left_out(stream):
    """They are of another time, and thousands of them would become what is usual."""
    stream.add([0.99] * 200, origin=BACKFILL)
    stream.turn()
    assert stream.chart("score").state["watch"]["learned"] == []
    assert stream.chart("refused").state["watch"]["learned"] == []


@pytest.mark.requirement("SRS-MON-008")
def test_without_a_change_nothing_is_raised(stream):
    """Four hundred studies as usual: an alarm here would be one of chance, which this seed does not have."""
    rng = np.random.default_rng(4)
    for _ in range(4):
        stream.add(usual(rng, 130), ages=rng.uniform(20, 90, 130))
        assert stream.turn() == []


@pytest.mark.requirement("SRS-MON-008")
def test_scores_that_rise_are_found_and_told_in_log_and_audit_trail(stream, caplog):
    """A detector with another gray scale: every logit is up by one; found within 60 studies."""
    rng = np.random.default_rng(5)
    stream.add(usual(rng, 160))
    stream.turn()
    seen = stream.sums("score")
    inside = usual(rng, 60)
    stream.add(1 / (1 + (1 - inside) / inside * np.exp(-1)))
    with caplog.at_level(logging.WARNING):
        raised = stream.turn()
    assert {"score"} <= {item.name for item in raised}
    chart = stream.chart("score")
    assert chart.alarm == "up"
    assert chart.state["watch"]["alarm_after"] - seen <= 60
    assert stream.turn() == []  # told once
    with stream.site.database.read() as connection:
        entries = audit.newest(connection, "monitor_alarm")
    assert entries
    assert entries[0].detail["model"] == "pneumonia-adult"


@pytest.mark.requirement("SRS-MON-008")
def test_inverted_pictures_are_found_by_their_refusals(stream):
    """A modality that writes MONOCHROME2 over inverted pixels: a fifth of the images is excluded; within 60 images."""
    rng = np.random.default_rng(6)
    stream.add(usual(rng, 200))
    stream.turn()
    seen = stream.sums("refused")
    stream.add(usual(rng, 60), excluded=set(range(0, 60, 5)))
    names = {item.name for item in stream.turn()}
    assert {"refused", "not-analysed"} <= names
    assert stream.chart("refused").state["watch"]["alarm_after"] - seen <= 60


@pytest.mark.requirement("SRS-MON-008")
def test_older_patients_are_found_as_a_shift_and_the_shift_ends_with_them(stream):
    """A new ward sends: what is shown is an alarm for as long as it is there, the sums of scores are not moved."""
    rng = np.random.default_rng(7)
    stream.add(usual(rng, BASELINE), ages=rng.normal(45, 12, BASELINE))
    stream.add(usual(rng, 110), ages=rng.normal(75, 8, 110))
    raised = {item.name for item in stream.turn()}
    assert raised == {"shift-age"}
    site = stream.chart("shift-age").state["site"]
    assert site["word"] == "large shift"
    stream.at += timedelta(days=60)
    stream.add(usual(rng, 210), ages=rng.normal(45, 12, 210))
    stream.turn()
    assert stream.chart("shift-age").alarm == ""


@pytest.mark.requirement("SRS-MON-007")
def test_readers_who_begin_to_disagree_are_found(stream):
    """The only chart that knows anything of the truth."""
    rng = np.random.default_rng(8)
    stream.add(usual(rng, 260))
    with stream.site.database.begin() as connection:
        for number, uid in enumerate([f"2.25.{place}" for place in range(1, 261)]):
            result = results.current(connection, uid)
            disagrees = number % 10 == 0 if number < 160 else number % 2 == 0
            verdict = "disagree" if disagrees else "agree"
            feedback.add(connection, result.id, verdict=verdict, reader="dr-a", now=stream.at)
            feedback.add(connection, result.id, verdict="unsure", reader="dr-b", now=stream.at)
    assert "disagreement" in {item.name for item in stream.turn()}
    assert stream.chart("disagreement").alarm == "up"


@pytest.mark.requirement("SRS-MON-002")
def test_images_are_also_held_against_the_packages_own(stream, package):
    """A site sees from the first weeks how far its patients lie from those of the operating point."""
    reference = reference_of(package)
    stream.add(usual(np.random.default_rng(9), BASELINE + 110))
    stream.turn()
    state = stream.chart("shift-probability").state
    assert state["has_reference"]
    assert state["package"]["before"] == reference.scores["pneumonia"].histogram.total
    assert state["package"]["recent"] == 110
    assert not stream.chart("shift-modality").state["has_reference"]  # the cohort's tables do not tell it


@pytest.mark.requirement("SRS-MON-010")
def test_an_alarm_is_taken_back_with_a_reason_and_may_be_learned_anew(stream):
    """A cause that was mended, or one that is here to stay."""
    rng = np.random.default_rng(10)
    stream.add(usual(rng, 150))
    stream.add(np.full(60, 0.95))
    stream.turn()
    assert stream.chart("flag").alarm == "up"
    told = {"model": "pneumonia-adult", "reason": "plate reader mended", "actor": "kim", "now": stream.at}
    done = reset(stream.site.database, name="flag", learn_anew=False, **told)
    assert [item.name for item in done] == ["flag"]
    kept = stream.chart("flag")
    assert (kept.alarm, kept.alarm_at, kept.state["watch"]["chart"]["cases"]) == ("", None, BASELINE)
    assert stream.chart("score").alarm == "up"
    reset(stream.site.database, name="", learn_anew=True, **told)
    stream.at += 3 * LAG
    stream.add(np.full(30, 0.95) + rng.normal(0, 0.01, 30))
    stream.turn()
    anew = stream.chart("score")
    assert (anew.alarm, len(anew.state["watch"]["learned"])) == ("", 30)
    assert stream.chart("shift-probability").state["site"] is None
    with stream.site.database.read() as connection:
        assert audit.newest(connection, "monitor_reset")[0].detail["reason"] == "plate reader mended"


@pytest.mark.requirement("SRS-MON-012")
def test_a_model_that_is_active_no_longer_takes_its_charts_with_it(stream):
    """Another model is another usual; the node's own charts stay."""
    stream.add(usual(np.random.default_rng(11), 150))
    stream.turn()
    with stream.site.database.begin() as connection:
        model_changes.add(
            connection,
            "pneumonia-adult",
            "off",
            reason="test",
            changed_by="kim",
            now=stream.at,
        )
    stream.turn()
    with stream.site.database.read() as connection:
        assert {item.name for item in monitoring.listed(connection)} == {"refused", "not-analysed", "disagreement"}


@pytest.mark.requirement("SRS-MON-007")
def test_a_site_may_leave_monitoring_out(stream):
    """`upkeep.monitor_baseline = 0`."""
    stream.add(usual(np.random.default_rng(12), 10))
    off = stream.settings.model_copy(
        update={"upkeep": stream.settings.upkeep.model_copy(update={"monitor_baseline": 0})}
    )
    assert watch_models(stream.site.database, off, now=stream.at + 2 * LAG) == []
    with stream.site.database.read() as connection:
        assert monitoring.listed(connection) == []
