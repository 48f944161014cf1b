"""Heat maps that a reader asks for, profile `research` only. A kind of side work: see `side.SIDE`.

A map is kept as a grayscale PNG over the whole image, white where covering the image lowers the score most.
"""

from collections.abc import Callable

import cv2
import numpy as np
from sqlalchemy.engine import Connection

from cxr_node.analyze.analyzer import Analyzer
from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import preprocess, radiograph_from_dicom_file
from cxr_node.inference import ModelPackage, occlusion_sensitivity
from cxr_node.settings import Settings
from cxr_node.work import Outcome
from storage import Database, InstanceFiles, heat_maps
from storage.errors import StorageError
from storage.heat_maps import HeatMap
from storage.jobs import Job

LONGEST_SIDE = 256  # of the picture; the map itself is coarser


class Overlays:
    """Does jobs of kind `heat_maps.HEAT_MAP`.

    Parameters
    ----------
    analyzer : the one in use; models may change while the node runs
    """

    def __init__(
        self, settings: Settings, database: Database, files: InstanceFiles, analyzer: Callable[[], Analyzer]
    ) -> None:
        self._profile = settings.node.profile
        self._database = database
        self._files = files
        self._analyzer = analyzer

    def handle(self, job: Job) -> Outcome:
        """Make the map; what cannot be made is settled as such, with its reason."""
        with self._database.read() as connection:
            wanted = heat_maps.get(connection, int(job.key))
            image = heat_maps.image_of(connection, wanted) if wanted is not None else None
        if wanted is None or wanted.state != heat_maps.ASKED:
            return lambda connection: None
        if self._profile != "research":
            return _failure(wanted, "profile triage has no heat maps")
        if image is None:
            return _failure(wanted, "the image is no longer kept")
        analyzer = self._analyzer()
        package = next((item for item in analyzer.packages if item.digest == wanted.model_digest), None)
        if package is None or wanted.finding not in package.manifest.findings:
            return _failure(wanted, "the model that scored this image runs no longer")
        try:
            made = self._made(analyzer, package, image, wanted.finding)
        except UnreadablePixels as error:
            return _failure(wanted, str(error))
        location = "" if made is None else self._files.write_object(f"heat-map:{wanted.id}", made)
        return lambda connection: heat_maps.settle(connection, wanted.id, location=location)

    @staticmethod
    def on_failed(connection: Connection, job: Job, reason: str) -> None:
        """Mark the map of a job that is given up."""
        heat_maps.fail(connection, int(job.key), reason)

    def _made(self, analyzer: Analyzer, package: ModelPackage, image: str, finding: str) -> bytes | None:
        with self._files.local(image) as path:
            radiograph = radiograph_from_dicom_file(path)
        scale = min(1.0, LONGEST_SIDE / max(radiograph.rows, radiograph.columns))
        found = occlusion_sensitivity(
            analyzer.engine(package).scores,
            preprocess(radiograph, package.manifest.preprocess),
            package.manifest.findings.index(finding),
            (max(1, round(radiograph.rows * scale)), max(1, round(radiograph.columns * scale))),
        )
        if found is None:
            return None
        encoded, data = cv2.imencode(".png", np.rint(found * 255).astype(np.uint8))
        if not encoded:
            raise StorageError("the heat map does not encode as PNG")
        return data.tobytes()


def _failure(wanted: HeatMap, reason: str) -> Outcome:
    return lambda connection: heat_maps.fail(connection, wanted.id, reason)
