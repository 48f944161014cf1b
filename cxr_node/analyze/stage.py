"""The stage: jobs in, outcomes out. TensorFlow lives in this process only."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence

from cxr_node import __version__, metrics
from cxr_node.analyze.analyzer import Analyzed, Analyzer, Prepared
from cxr_node.analyze.heat_maps import heat_maps
from cxr_node.analyze.models import Models
from cxr_node.analyze.settle import GivenUp, settlement
from cxr_node.analyze.side import Bench, side_work
from cxr_node.analyze.standing import standing
from cxr_node.analyze.study import OpenStudy, conclude, load_study, reference
from cxr_node.clock import utc_now
from cxr_node.inference import ModelPackage, find_package, package_folders
from cxr_node.log import get_logger
from cxr_node.reporting import Device, device_for
from cxr_node.settings import Settings
from cxr_node.work import Outcome, Worker
from cxr_node.work.heartbeat import beating
from storage import Database, Doorbell, InstanceFiles
from storage.jobs import Job

log = get_logger("analyze")


def load_packages(settings: Settings, names: Sequence[str]) -> list[ModelPackage]:
    """Find and verify the named packages: a site's own in ``data_dir/packages`` before the released ones.

    Raises
    ------
    PackageError
        One is missing or altered.
    """
    return [find_package(name, package_folders(settings.data_dir)) for name in names]


class AnalyzeStage:
    """Handles claims of ANALYZE jobs, several studies in one batch."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        files: InstanceFiles,
        analyzer: Callable[[], Analyzer],
        device: Device,
    ) -> None:
        self._settings = settings
        self._database = database
        self._files = files
        self._analyzer = analyzer
        self._device = device
        self._kinds = frozenset(kind for destination in settings.destination for kind in destination.sends)

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield each study's settlement as soon as it is known."""
        analyzer = self._analyzer()  # one for the whole batch: models may change while it is worked on
        opened: list[OpenStudy] = []
        for job in claimed:
            study = load_study(self._database, self._files, job)
            if study is None:
                yield job, lambda connection: None
            else:
                opened.append(study)
        prepared: list[list[Prepared]] = [
            analyzer.prepare(
                (self._files.path(image.location), reference(image), study.known.get(image.id, {}))
                for image in study.images
            )
            for study in opened
        ]
        analyzed = iter(analyzer.analyze([item for group in prepared for item in group]))
        for study, group in zip(opened, prepared, strict=True):
            yield study.job, self._settle(analyzer, study, [next(analyzed) for _ in group])

    def _settle(self, analyzer: Analyzer, study: OpenStudy, analyzed: list[Analyzed]) -> Outcome:
        profile = self._settings.node.profile
        paths = [self._files.path(image.location) for image in study.images]
        found = heat_maps(analyzer, analyzed, paths, profile=profile, kinds=self._kinds)
        conclusion = conclude(
            study,
            analyzed,
            device=self._device,
            content_time=utc_now(),
            kinds=self._kinds,
            profile=profile,
            heat_maps=found.maps,
            radiographs=found.radiographs,
            manifest_wait_s=self._settings.receive.manifest_wait_s,
        )
        for item in analyzed:
            exclusion = item.analysis.exclusion
            metrics.IMAGES.labels("analysed" if exclusion is None else exclusion.reason).inc()
        if conclusion is not None:
            if conclusion.outcome.flagged:
                metrics.FLAGGED.inc()
            log.info(
                "study_analysed",
                study_instance_uid=study.study.study_instance_uid,
                status=str(conclusion.outcome.status),
                flagged=conclusion.outcome.flagged,
                images=len(analyzed),
                exclusions=sorted({item.analysis.exclusion.reason for item in analyzed if item.analysis.exclusion}),
            )
            if conclusion.is_mixed:
                metrics.TWO_PATIENTS.inc()
                log.error(
                    "two_patients_in_study", study_instance_uid=study.study.study_instance_uid, images=len(analyzed)
                )
        return settlement(
            study,
            conclusion,
            files=self._files,
            destinations=self._settings.destination,
            now=utc_now,
            station_name=self._settings.node.station_name,
            manifest_wait_s=self._settings.receive.manifest_wait_s,
        )


def run_analyze(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises
    ------
    PackageError
        A package that is to run is missing, altered or not the one that was confirmed: the stage refuses to serve.
    """
    database = Database(settings.database_url)
    database.migrate()
    files = InstanceFiles(settings.instances_dir)
    models, loaded = Models(settings, database), threading.Event()
    with beating(database, "analyze", lambda: standing(models.analyzer() if loaded.is_set() else None)):
        models.load()
        loaded.set()
        _serve(settings, stop, database, files, models)


def _serve(settings: Settings, stop: threading.Event, database: Database, files: InstanceFiles, models: Models) -> None:
    log.info("analyze_ready", models=models.analyzer().devices(), profile=settings.node.profile)
    threading.Thread(target=models.watch, args=(stop,), name="analyze-models", daemon=True).start()
    device = device_for(settings.node.station_name, __version__, settings.data_dir)
    worker = Worker(
        database=database,
        doorbell=Doorbell(settings.data_dir / "run"),
        kinds=("analyze",),
        topic="analyze",
        handle=AnalyzeStage(settings, database, files, models.analyzer, device).handle,
        owner=f"analyze:{os.getpid()}:main",
        batch=settings.analyze.batch_size,
        on_failed=GivenUp(files, settings.destination, settings.node.station_name),
        ring_after=("worklist", "deliver"),
    )
    bench = Bench(settings, database, files, models.analyzer)
    try:
        with side_work(bench, stop):
            worker.run(stop)
    finally:
        database.dispose()
