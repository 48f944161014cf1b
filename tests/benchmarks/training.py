"""Images a second of the trainer's input pipeline and training, beside a plain Keras loop on the same network.

    python -m tests.benchmarks.training [--data FOLDER] [--images 1000] [--size 160] [--rounds 3] [--out FILE]

FOLDER holds class folders of pictures; without it pictures of 224 x 224 are drawn. Peers take turns in every round;
the table gives medians and their ratio to the plain loop: `image_dataset_from_directory`, once as it stands and once
with Keras's own flip, rotation, zoom and contrast. Ours changes every image by the trainer's augmentation.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np

BATCH = 32


def draw(folder: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    for number in range(count):
        path = folder / ("NORMAL", "PNEUMONIA")[number % 2] / f"p{number}_0.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = cv2.resize(rng.uniform(0, 255, (28, 28)).astype(np.uint8), (224, 224), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path), noise, [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch) / "drawn"
        if options.data is None:
            draw(data, options.images)
        results = measure(data, options, Path(scratch))
    plain = {key: statistics.median(values) for key, values in results["plain"].items()}
    print(f"{'':<22}{'input, images/s':>18}{'ratio':>8}{'training, images/s':>22}{'ratio':>8}")
    for name, values in results.items():
        cells = [
            f"{statistics.median(values[key]):>{width}.0f}{statistics.median(values[key]) / plain[key]:>8.2f}"
            for key, width in (("input", 18), ("training", 22))
        ]
        print(f"{name:<22}{''.join(cells)}")
    if options.out:
        options.out.write_text(json.dumps({"options": vars(options), "images_per_s": results}, default=str, indent=2))


def measure(data: Path, options: argparse.Namespace, scratch: Path) -> dict[str, dict[str, list[float]]]:
    import keras

    from cxr_node.imaging import PreprocessSpec
    from trainer.architectures import ARCHITECTURES
    from trainer.augment import Augment
    from trainer.cohorts import Case
    from trainer.inputs import Batches, prepare
    from trainer.loss import WeightedCrossentropy

    size = (options.size, options.size)
    paths = sorted(data.rglob("*.jp*g"))[: options.images]
    cases = [
        Case(path.name, path, {"pneumonia": float("PNEUMONIA" in path.parts)}, path.stem, "train") for path in paths
    ]
    labels = np.array([[case.labels["pneumonia"]] for case in cases], np.float32)

    def network(loss: Any) -> Any:
        model = ARCHITECTURES["efficientnet-lite0"](size, ("pneumonia",))
        model.compile(keras.optimizers.AdamW(1e-4), loss=loss)
        return model

    def dataset(augmented: bool) -> Any:
        made = keras.utils.image_dataset_from_directory(
            data, label_mode="binary", color_mode="grayscale", image_size=size, batch_size=BATCH, verbose=False
        ).take(len(cases) // BATCH)
        if augmented:
            layers = keras.Sequential(
                [
                    keras.layers.RandomFlip("horizontal"),
                    keras.layers.RandomRotation(0.03),
                    keras.layers.RandomZoom(0.15),
                    keras.layers.RandomContrast(0.3),
                ]
            )
            made = made.map(lambda images, targets: (layers(images, training=True), targets), num_parallel_calls=-1)
        return made.map(lambda images, targets: (images / 255.0, targets)).prefetch(4)

    def batches(round_: int, fresh: bool) -> Any:
        cache = scratch / (f"cache-{round_}" if fresh else "cache")
        inputs = prepare(cases, PreprocessSpec(size), cache, "pictures", threads=options.threads)
        made = Batches(inputs, labels, np.ones_like(labels), Augment(flip=True), BATCH, 1)
        return made.epoch(round_, threads=options.threads)

    ours, plain = network(WeightedCrossentropy(1)), network("binary_crossentropy")
    first = next(iter(batches(0, False)))
    ours.train_on_batch(*first)
    plain.train_on_batch(first[0], first[1][:, :1])

    def timed(work: Callable[[], int]) -> float:
        began = time.perf_counter()
        return work() / (time.perf_counter() - began)

    def read(source: Any) -> int:
        return sum(len(images) for images, _ in source)

    def learn(model: Any, source: Any) -> int:
        count = 0
        for images, targets in source:
            model.train_on_batch(images, targets)
            count += len(images)
        return count

    results: dict[str, dict[str, list[float]]] = {
        name: {"input": [], "training": []} for name in ("plain", "plain, augmented", "ours, first epoch", "ours")
    }
    for round_ in range(1, options.rounds + 1):
        results["plain"]["input"].append(timed(lambda: read(dataset(False))))
        results["plain, augmented"]["input"].append(timed(lambda: read(dataset(True))))
        results["ours, first epoch"]["input"].append(timed(lambda: read(batches(round_, True))))  # noqa: B023
        results["ours"]["input"].append(timed(lambda: read(batches(round_, False))))  # noqa: B023
        results["plain"]["training"].append(timed(lambda: learn(plain, dataset(False))))
        results["plain, augmented"]["training"].append(timed(lambda: learn(plain, dataset(True))))
        results["ours, first epoch"]["training"].append(
            timed(lambda: learn(ours, batches(round_ + options.rounds, True)))  # noqa: B023
        )
        results["ours"]["training"].append(timed(lambda: learn(ours, batches(round_, False))))  # noqa: B023
    return results


if __name__ == "__main__":
    main()
