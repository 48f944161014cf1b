"""A study of 10,000 images: `python -m tests.benchmarks.large_study [--quick] [--images 10000]`.

One association sends small images (64 x 64 pixels) of one study to `cxr-node receive`. For each tenth of them the rate
and the receiver's memory are shown: neither may depend on how many came before. Afterwards the database must hold all
images, one study and one job that analyses it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom.uid import DigitalXRayImageStorageForPresentation as DX
from pydicom.uid import generate_uid

from storage import Database, jobs, studies
from tests.benchmarks.receivers import MemoryWatch, Receiver, enter_private_network, machine, node, running
from tests.builders import make_radiograph_dataset
from tests.cxr_node.receive import wire


def main() -> None:
    """Run and print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 images")
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    enter_private_network("tests.benchmarks.large_study")
    images = 1000 if arguments.quick else arguments.images
    dataset = make_radiograph_dataset(np.zeros((64, 64), np.uint16))
    study = dataset.StudyInstanceUID
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(Receiver("cxr-node", node(1)), folder) as found:
            print(f"{'images':>8}{'images/s':>10}{'RSS MB':>9}")
            with wire.associate(found.port, DX) as connection:
                done = 0
                while done < images:
                    some = min(images // 10 or 1, images - done)
                    with MemoryWatch(found.process.pid) as watch:
                        started = time.monotonic()
                        for _ in range(some):
                            dataset.SOPInstanceUID = generate_uid()
                            connection.sendall(b"".join(wire.store_pdus(dataset)))
                            status = wire.receive_status(connection)
                            if status != 0x0000:
                                raise RuntimeError(f"image {done}: status 0x{status:04X}")
                        rate = some / (time.monotonic() - started)
                    done += some
                    rows.append({"images": done, "images_per_s": round(rate, 1), "rss_mb": round(watch.rss_mb, 1)})
                    print(f"{done:8}{rows[-1]['images_per_s']:10}{rows[-1]['rss_mb']:9}", flush=True)
        database = Database(f"sqlite:///{folder / 'data' / 'cxr-node.db'}")
        with database.read() as connection:
            kept = studies.get(connection, study)
            waiting = jobs.counts(connection)
        database.dispose()
    if kept is None or kept.images != images or waiting != {("analyze", "SCHEDULED"): 1}:
        raise RuntimeError(f"expected {images} images and one job, found {kept and kept.images} and {waiting}")
    print(json.dumps({"benchmark": "large_study", "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
