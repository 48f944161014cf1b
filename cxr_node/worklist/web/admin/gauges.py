"""Gauges of stages, senders and certificates for Prometheus, computed when they are asked for."""

from collections.abc import Iterable
from datetime import datetime

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.settings import Settings
from cxr_node.worklist.web.admin import monitors
from cxr_node.worklist.web.admin.condition import READY, Condition, look
from storage import Database
from storage.errors import StorageError


class NodeGauges(Collector):
    """What an alarm outside the node is set on."""

    def __init__(self, settings: Settings, database: Database, now: datetime) -> None:
        self._settings, self._database, self._now = settings, database, now

    def collect(self) -> Iterable[Metric]:
        """Look once; nothing where the database does not answer, which `cxr_database_up` says."""
        try:
            condition = look(self._settings, self._database, self._now)
        except (StorageError, SQLAlchemyError):
            return
        yield _stages(condition)
        yield _silent(condition)
        yield _certificates(condition)
        yield from _monitors(condition)
        yield GaugeMetricFamily(
            "cxr_unknown_callers", "Unknown callers turned away in 24 hours", value=condition.unknown_callers
        )
        if condition.backup.made_at is not None:
            age = (condition.at - condition.backup.made_at).total_seconds()
            yield GaugeMetricFamily("cxr_backup_age_seconds", "Since the newest complete backup was made, s", value=age)
        if condition.oldest_pending_at is not None:
            waited = (condition.at - condition.oldest_pending_at).total_seconds()
            yield GaugeMetricFamily(
                "cxr_oldest_pending_study_seconds", "Oldest study without a result, s", value=waited
            )


def _stages(condition: Condition) -> Metric:
    gauge = GaugeMetricFamily("cxr_stage_up", "1 while the stage gives signs of life", labels=["stage"])
    for stage in condition.stages:
        gauge.add_metric([stage.name], 1 if stage.state == READY else 0)
    return gauge


def _silent(condition: Condition) -> Metric:
    gauge = GaugeMetricFamily(
        "cxr_sender_silent",
        "1 while a sender is silent for too long and nobody muted the alarm",
        labels=["calling_ae_title", "modality"],
    )
    for silence in condition.silences:
        gauge.add_metric(list(silence.sender), 0 if silence.muted_at is not None else 1)
    return gauge


def _monitors(condition: Condition) -> Iterable[Metric]:
    labels = ["model", "finding", "chart"]
    alarm = GaugeMetricFamily(
        "cxr_monitor_alarm", "1 while a chart of monitoring has an alarm that nobody took back", labels=labels
    )
    level = GaugeMetricFamily("cxr_monitor_level", "How far a chart is towards its alarm, at 1", labels=labels)
    learning = GaugeMetricFamily("cxr_monitor_learning", "1 while a chart learns what is usual", labels=labels)
    index = GaugeMetricFamily(
        "cxr_monitor_stability_index",
        "Population stability index of the last images against the site's first, or the package's own",
        labels=[*labels, "against"],
    )
    for item in monitors.told(condition.monitors):
        names = [item.monitor.model or "node", item.monitor.finding, item.monitor.name]
        alarm.add_metric(names, float(item.is_alarm))
        learning.add_metric(names, float(item.is_learning))
        if item.level is not None:
            level.add_metric(names, item.level)
        for against, value in item.indices.items():
            index.add_metric([*names, against], value)
    yield from (alarm, level, learning, index)


def _certificates(condition: Condition) -> Metric:
    gauge = GaugeMetricFamily("cxr_certificate_expires_seconds", "Time until a certificate expires, s", labels=["key"])
    for item in condition.certificates:
        if item.expires_at is not None:
            gauge.add_metric([item.key], (item.expires_at - condition.at).total_seconds())
    return gauge
