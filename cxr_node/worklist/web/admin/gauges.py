"""Gauges of stages, senders and certificates for Prometheus, computed when they are asked for."""

from collections.abc import Iterable
from datetime import datetime

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.settings import Settings
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


def _certificates(condition: Condition) -> Metric:
    gauge = GaugeMetricFamily("cxr_certificate_expires_seconds", "Time until a certificate expires, s", labels=["key"])
    for item in condition.certificates:
        if item.expires_at is not None:
            gauge.add_metric([item.key], (item.expires_at - condition.at).total_seconds())
    return gauge
