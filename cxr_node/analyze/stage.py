"""The stage: jobs in, outcomes out. TensorFlow is loaded in this process only, and only where LiteRT does not serve."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from cxr_node import __version__, metrics
from cxr_node.analyze.analyzer import Analyzed, Analyzer, prepare_lent
from cxr_node.analyze.flow import Flow
from cxr_node.analyze.heat_maps import heat_maps
from cxr_node.analyze.models import Models
from cxr_node.analyze.prepare import Gate, Prepared, Wanted
from cxr_node.analyze.readers import Readers, reader_count
from cxr_node.analyze.settle import GivenUp, settlement
from cxr_node.analyze.side import Bench, side_work
from cxr_node.analyze.standing import standing
from cxr_node.analyze.study import OpenStudy, conclude, lent, load_study, reference
from cxr_node.clock import utc_now
from cxr_node.inference import GPU, ModelPackage, find_package, package_folders
from cxr_node.log import get_logger
from cxr_node.reporting import TOLD_OF_EXCLUDED, Device, device_for
from cxr_node.settings import Settings
from cxr_node.work import Outcome, Worker
from cxr_node.work.files import instance_files
from cxr_node.work.heartbeat import beating
from cxr_node.work.owner import owner
from storage import Database, Doorbell, InstanceFiles
from storage.faults import fault_point
from storage.jobs import Job

log = get_logger("analyze")

_IMAGES_UNDER_WAY = 4  # for each reader: one that it reads, and what waits for the engine or for a settlement


def load_packages(settings: Settings, names: Sequence[str]) -> list[ModelPackage]:
    """Find and verify the named packages: a site's own in ``data_dir/packages`` before the released ones.

    Raises
    ------
    PackageError
        One is missing or altered.
    """
    return [find_package(name, package_folders(settings.data_dir)) for name in names]


class Preparing(Protocol):
    """Whoever prepares images; `count` at a time."""

    @property
    def count(self) -> int: ...

    def submit(self, gate: Gate, wanted: Wanted) -> Future[Prepared]: ...


class Here:
    """Prepares images in threads of this process: for tests, and for a few images."""

    count = 2

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="decode")

    def submit(self, gate: Gate, wanted: Wanted) -> Future[Prepared]:
        """Have an image prepared; see `prepare_lent` for what the future raises."""
        return self._pool.submit(prepare_lent, gate, wanted)


class AnalyzeStage:
    """Handles claims of ANALYZE jobs, several studies at once.

    Parameters
    ----------
    analyzer : the one in use; models may change while the node runs
    readers : None: images are read in this process
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        files: InstanceFiles,
        analyzer: Callable[[], Analyzer],
        device: Device,
        readers: Preparing | None = None,
    ) -> None:
        self._readers = readers or Here()
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._settings = settings
        self._database = database
        self._files = files
        self._analyzer = analyzer
        self._device = device
        self._kinds = frozenset(kind for destination in settings.destination for kind in destination.sends)

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield each study's settlement as soon as it is known."""
        fault_point("analyze.claimed")
        analyzer = self._analyzer()  # one for the whole batch: models may change while it is worked on
        gate = analyzer.gate(full_decode=self._settings.analyze.full_decode, told=TOLD_OF_EXCLUDED)
        unknown: list[Job] = []

        def studies() -> Iterator[tuple[OpenStudy, list[Wanted]]]:
            for job in claimed:
                study = load_study(self._database, self._files, job)
                if study is None:
                    unknown.append(job)
                else:
                    yield study, self._wanted(study)

        flow: Flow[OpenStudy] = Flow(
            lambda wanted: self._readers.submit(gate, wanted),
            analyzer.analyze,
            self._scorer,
            window=_IMAGES_UNDER_WAY * self._readers.count,
        )
        for study, found in flow.run(studies()):
            if isinstance(found, Exception):
                yield study.job, found
                continue
            try:
                outcome: Outcome = self._settle(analyzer, study, found)
            except Exception as error:  # noqa: BLE001  # this study's outcome; the others of the claim have theirs
                outcome = error
            yield study.job, outcome
        for job in unknown:
            yield job, lambda connection: None

    def _wanted(self, study: OpenStudy) -> list[Wanted]:
        return [
            Wanted(lent(self._files, image.location), reference(image), study.known.get(image.id, {}))
            for image in study.images
        ]

    def _settle(self, analyzer: Analyzer, study: OpenStudy, analyzed: list[Analyzed]) -> Outcome:
        profile = self._settings.node.profile
        kept = [lent(self._files, image.location) for image in study.images]
        found = heat_maps(analyzer, analyzed, kept, profile=profile, kinds=self._kinds)
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
        fault_point("analyze.predicted")
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
    files = instance_files(settings)
    models, loaded = Models(settings, database), threading.Event()
    workers = settings.analyze.workers
    readers = Readers(reader_count(workers if isinstance(workers, int) else 1))
    readers.start()
    with beating(
        database, "analyze", lambda: standing(models.analyzer() if loaded.is_set() else None, models.doing)
    ) as tell:
        try:
            models.load()
            loaded.set()
            tell()
            _serve(settings, stop, database, files, models, readers)
        finally:
            readers.close()


def _serve(
    settings: Settings,
    stop: threading.Event,
    database: Database,
    files: InstanceFiles,
    models: Models,
    readers: Readers,
) -> None:
    log.info("analyze_ready", models=models.analyzer().devices(), profile=settings.node.profile)
    threading.Thread(target=models.watch, args=(stop,), name="analyze-models", daemon=True).start()
    device = device_for(settings.node.station_name, __version__, settings.data_dir)
    worker = Worker(
        database=database,
        doorbell=Doorbell(settings.data_dir / "run", database),
        kinds=("analyze",),
        topic="analyze",
        handle=AnalyzeStage(settings, database, files, models.analyzer, device, readers).handle,
        owner=owner(settings.data_dir, "analyze", "main"),
        batch=settings.analyze.batch_size,
        fill_s=lambda: settings.analyze.batch_wait_ms / 1000 if GPU in models.analyzer().devices().values() else 0.0,
        on_failed=GivenUp(files, settings.destination, settings.node.station_name),
        ring_after=("worklist", "deliver"),
    )
    bench = Bench(settings, database, files, models.analyzer)
    try:
        with side_work(bench, stop):
            worker.run(stop)
    finally:
        database.dispose()
