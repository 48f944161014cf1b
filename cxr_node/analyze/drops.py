"""Images that somebody tries: looked at apart, scored by the models that run, and never part of a study."""

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection

from cxr_node.analyze.analyzer import Analyzer
from cxr_node.analyze.apart import Apart, CallFailed
from cxr_node.analyze.look import NOWHERE, Looked, look
from cxr_node.analyze.prepare import Prepared
from cxr_node.clock import utc_now
from cxr_node.findings import Exclusion, ImageAnalysis
from cxr_node.inference import ModelPackage
from cxr_node.settings import Settings
from storage import Database, drops
from storage.drops import DONE, FAILED, WAITING, DropFolder
from storage.jobs import Job


class Drops:
    """Does jobs of kind "drop"; the key of one is the id of a file."""

    def __init__(self, settings: Settings, database: Database, analyzer: Callable[[], Analyzer]) -> None:
        self._database = database
        self._profile = settings.node.profile
        self._full_decode = settings.analyze.full_decode
        self._folder = DropFolder(settings.data_dir / "drops")
        self._analyzer = analyzer
        self._look = Apart(look_at)

    def handle(self, job: Job) -> Callable[[Connection], None]:
        """Look at one file and return what settles it; one that was cleared meanwhile is nothing to do.

        A file that ended its decoder is settled too: its sender is told, and no administrator needs to act.
        """
        with self._database.read() as connection:
            found = drops.get_file(connection, int(job.key))
        if found is None or found[1].state != WAITING:
            return lambda connection: None
        drop, file = found
        analyzer = self._analyzer()
        path, preview = self._folder.path(file.location), self._folder.preview(file.location)
        packages = (*analyzer.packages, *analyzer.shadow)
        population, traced = str(drop.options.get("population") or ""), drop.purpose == "rules"
        try:
            looked: Looked = self._look(path, preview, population, self._profile, packages, traced, self._full_decode)
        except CallFailed as error:
            values: dict[str, Any] = {"state": FAILED, "reason": str(error)}
        else:
            analysis = self._analysis(analyzer, looked, packages)
            values = {"state": DONE, "result": _result(looked, analysis, shows_numbers=self._profile == "research")}

        def settle(connection: Connection) -> None:
            now_there = drops.get_file(connection, file.id)
            if now_there is None:
                preview.unlink(missing_ok=True)  # cleared while it was looked at
            elif now_there[0].options == drop.options:  # else it was said meanwhile whom it shows: the job runs again
                drops.settle(connection, file.id, now=utc_now(), **values)

        return settle

    @staticmethod
    def _analysis(analyzer: Analyzer, looked: Looked, packages: tuple[ModelPackage, ...]) -> ImageAnalysis:
        fitting = tuple(package for package in packages if package.digest in looked.inputs)
        prepared = Prepared(NOWHERE, None, looked.exclusion, fitting, looked.inputs, notes=looked.notes)
        return analyzer.analyze([prepared])[0].analysis

    def on_failed(self, connection: Connection, job: Job, reason: str) -> None:
        """Say in the file's row why nothing came of it."""
        drops.settle(connection, int(job.key), state=FAILED, now=utc_now(), reason=reason)

    def close(self) -> None:
        """End the process that looks, and the look that is under way."""
        self._look.close()


def look_at(
    path: Any, preview: Any, population: str, profile: Any, packages: Any, traced: bool, full_decode: bool
) -> Looked:
    """As `look`, by position."""
    return look(
        path,
        preview,
        population=population,
        profile=profile,
        packages=packages,
        traced=traced,
        full_decode=full_decode,
    )


def _result(looked: Looked, analysis: ImageAnalysis, *, shows_numbers: bool) -> dict[str, Any]:
    """What the page says, as JSON. Probabilities stand in it in profile research only."""
    flagged = any(score.flagged for score in analysis.scores)
    findings = [
        {
            "finding": score.finding,
            "model": score.model,
            "model_version": score.model_version,
            "flagged": score.flagged,
            **({"probability": score.probability, "threshold": score.threshold} if shows_numbers else {}),
        }
        for score in analysis.scores
    ]
    return {
        "kind": looked.kind,
        "facts": dict(looked.facts),
        "outcome": "not_analysed" if analysis.exclusion else "flagged" if flagged else "not_flagged",
        "exclusion": _exclusion(analysis.exclusion),
        "findings": findings,
        "notes": list(looked.notes),
        "has_preview": looked.has_preview,
        "study_instance_uid": looked.study_instance_uid,
        "sop_instance_uid": looked.sop_instance_uid,
        "trace": looked.trace,
    }


def _exclusion(exclusion: Exclusion | None) -> dict[str, str] | None:
    return None if exclusion is None else {name: str(value) for name, value in vars(exclusion).items()}
