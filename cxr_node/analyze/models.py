"""Which models run: what node.toml and the admins say, loaded beside the studies and swapped between two batches.

The audit trail is where other processes learn of it: `models_loaded` names what runs, `models_not_loaded` says why a
change was not taken up.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.analyze.analyzer import Analyzer
from cxr_node.clock import utc_now
from cxr_node.errors import PackageError
from cxr_node.inference import GOLDEN, Engine, ModelPackage, check_golden, find_package, package_folders
from cxr_node.inference.devices import cores
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from storage import Database, Doorbell, audit, model_changes
from storage.errors import StorageError
from storage.model_changes import Chosen, Effective

log = get_logger("analyze")

TOPIC = "models"
LOOK_EVERY_S = 5.0  # a ring may be lost
LOADED = "models_loaded"
NOT_LOADED = "models_not_loaded"

LOADING = "loading models"
# Of what an engine tells, the rest is an alarm: it serves otherwise than it was meant to.
_PROGRESS = frozenset({"package_conversion_started", "package_converted"})


class Models:
    """The analyzer in use. `analyzer` is asked for once a batch, so that a batch has one set of models throughout."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        engine: Callable[..., Engine] = Engine,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings = settings
        self._database = database
        self._engine = engine
        self._now = now
        self._analyzer: Analyzer | None = None
        self._tried: Effective | None = None
        self._converting = ""

    @property
    def doing(self) -> str:
        """What is done before studies can be analysed, for who asks why they wait."""
        return f"converting {self._converting} for this computer, once" if self._converting else LOADING

    def analyzer(self) -> Analyzer:
        """Return the analyzer in use; `load` comes first."""
        assert self._analyzer is not None
        return self._analyzer

    def load(self) -> None:
        """Load what is wanted, at the start.

        Raises
        ------
        PackageError
            A package is missing, altered, not the one that was confirmed, or gives other scores than it was released
            with: the stage refuses to serve.
        """
        wanted = self._wanted()
        self._tried = wanted
        try:
            analyzer = self._make(self._packages(wanted.active), self._packages(wanted.shadow))
            analyzer.warm()
            for package in (*analyzer.packages, *analyzer.shadow):
                if GOLDEN in package.manifest.files:
                    check_golden(package, analyzer.engine(package))
        except PackageError as error:
            self._refuse(str(error), is_serving=False)
            raise
        self._analyzer = analyzer
        self._tell(LOADED, _named(analyzer))

    def refresh(self) -> bool:
        """Take up what admins changed; return whether other models run now.

        The new ones are loaded, warmed and held against their golden inputs while the old ones go on. Where that fails
        the old ones stay, the audit trail says why, and it is tried again once somebody changes or confirms something.
        """
        wanted = self._wanted()
        if wanted == self._tried:
            return False
        self._tried = wanted
        running = self.analyzer()
        try:
            active, shadow = self._packages(wanted.active), self._packages(wanted.shadow)
            if (_digests(active), _digests(shadow)) == (_digests(running.packages), _digests(running.shadow)):
                return False
            analyzer = self._make(active, shadow)
            analyzer.warm()
            known = {package.digest for package in (*running.packages, *running.shadow)}
            for package in (*active, *shadow):
                if package.digest not in known:
                    check_golden(package, analyzer.engine(package))
        except (PackageError, OSError) as error:
            self._refuse(str(error))
            return False
        except Exception as error:  # noqa: BLE001  # whatever TensorFlow says of a package, the old models go on
            self._refuse(f"{type(error).__name__} while the package was loaded")
            return False
        self._analyzer = analyzer
        self._tell(LOADED, _named(analyzer))
        log.info("models_changed", **_named(analyzer))
        return True

    def watch(self, stop: threading.Event) -> None:
        """Look for changes until `stop` is set: when the bell rings, and now and then."""
        bell = Doorbell(self._settings.data_dir / "run", self._database).listen(TOPIC)
        try:
            while not stop.is_set():
                bell.wait(LOOK_EVERY_S)
                try:
                    self.refresh()
                except (StorageError, SQLAlchemyError) as error:
                    log.error("storage_unavailable", owner="models", error_type=type(error).__name__)
        finally:
            bell.close()

    def _wanted(self) -> Effective:
        analyze = self._settings.analyze
        with self._database.read() as connection:
            return model_changes.effective(connection, analyze.models, analyze.shadow)

    def _packages(self, chosen: Sequence[Chosen]) -> list[ModelPackage]:
        return [_confirmed(item, self._settings) for item in chosen]

    def _make(self, active: Sequence[ModelPackage], shadow: Sequence[ModelPackage]) -> Analyzer:
        loaded = self._analyzer
        known = {package.digest for package in (*loaded.packages, *loaded.shadow)} if loaded is not None else set()

        def engine(package: ModelPackage, **options: Any) -> Engine:
            if loaded is not None and package.digest in known:
                return loaded.engine(package)
            analyze = self._settings.analyze
            # Workers share the processor's cores: more threads than cores only take turns.
            threads = max(1, cores() // (analyze.workers if isinstance(analyze.workers, int) else 1))
            return self._engine(
                package,
                choice=analyze.engine,
                batch=analyze.batch_size,
                threads=threads,
                report=self._report,
                **options,
            )

        return Analyzer(
            active,
            shadow=shadow,
            profile=self._settings.node.profile,
            cache_dir=self._settings.data_dir / "cache",
            engine=engine,
        )

    def _report(self, event: str, **detail: Any) -> None:
        """Take what an engine tells: how far a conversion is, or that it serves otherwise than it was meant to."""
        if event == "package_conversion_started":
            self._converting = str(detail["package"])
        elif event == "package_converted":
            self._converting = ""
        else:
            metrics.ENGINE_TROUBLES.labels(event).inc()
        (log.info if event in _PROGRESS else log.error)(event, **detail)

    def _refuse(self, reason: str, *, is_serving: bool = True) -> None:
        detail = {"reason": reason, "serving": is_serving}
        log.error("models_not_loaded", **detail)
        with self._database.read() as connection:
            refused, loaded = audit.newest(connection, NOT_LOADED), audit.newest(connection, LOADED)
        # A stage that cannot start is started again and again: told once, not every half minute.
        if is_serving or not refused or refused[0].detail != detail or (loaded and loaded[0].id > refused[0].id):
            self._tell(NOT_LOADED, detail)

    def _tell(self, event: str, detail: dict[str, Any]) -> None:
        with self._database.begin() as connection:
            audit.record(connection, event, actor="analyze", now=self._now(), detail=detail)


def _confirmed(chosen: Chosen, settings: Settings) -> ModelPackage:
    package = find_package(chosen.name, package_folders(settings.data_dir))
    if chosen.digest and package.digest != chosen.digest:
        raise PackageError(
            f"package {chosen.name}: expected the one that was confirmed, {chosen.digest[:12]}, found "
            f"{package.manifest.version}, {package.digest[:12]}: confirm it on the page Models, or put the other back"
        )
    return package


def _digests(packages: Sequence[ModelPackage]) -> list[str]:
    return [package.digest for package in packages]


def _named(analyzer: Analyzer) -> dict[str, Any]:
    def of(packages: Sequence[ModelPackage]) -> dict[str, dict[str, str]]:
        return {
            package.manifest.name: {"version": package.manifest.version, "digest": package.digest}
            for package in packages
        }

    return {"active": of(analyzer.packages), "shadow": of(analyzer.shadow)}
