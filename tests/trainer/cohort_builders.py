"""Every cohort in every form it comes in, small and drawn: phantom pictures with the tables of the real ones."""

import csv
import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.builders import make_radiograph_dataset, to_part_10

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
SELECTION_COLUMNS = (
    *("Image Index", "file", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"),
    *("View Position", "folder_label", "rsna_class", "rsna_target", "rsna_id", "google_pneumothorax"),
    *("google_airspace_opacity", "google_nodule_or_mass", "google_fracture", "google_set_id", "source"),
    *("width", "height"),
)
NIH_NAMES = (
    "No Finding",
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
)


def phantom(haze: bool, rng: np.random.Generator, size: int = 40) -> np.ndarray:
    """A picture of two dark ovals, (size, size) uint8; with haze, one of them is bright."""
    y, x = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size), indexing="ij")
    image = np.full((size, size), 0.7)
    for side in (0.3, 0.7):
        depth = 0.15 if haze and side == 0.3 else 0.5
        image -= depth * np.exp(-((((x - side) / 0.15) ** 2 + ((y - 0.5) / 0.3) ** 2) ** 2))
    image += rng.normal(0, 0.03, image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def picture(path: Path, haze: bool, rng: np.random.Generator, size: int = 40) -> None:
    """Write a phantom as the ending of the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), phantom(haze, rng, size))


def dicom(path: Path, haze: bool, rng: np.random.Generator, **attributes: Any) -> None:
    """Write a phantom as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = phantom(haze, rng, 64).astype(np.uint16) * 16
    path.write_bytes(to_part_10(make_radiograph_dataset(pixels, **attributes)))


def table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def nih_rows(patients: int = 24, images: int = 2) -> list[tuple[str, str, int]]:
    """(image, findings, age) of adults: every third patient has pneumonia, and patient 5 is a child."""
    return [
        (
            f"{patient:08d}_{image:03d}.png",
            ("Pneumonia|Infiltration", "No Finding", "Mass")[patient % 3],
            9 if patient == 5 else 20 + patient % 70,
        )
        for patient in range(1, patients + 1)
        for image in range(images)
    ]


def nih_line(image: str, findings: str, age: int | str, sex: str = "F", view: str = "PA") -> str:
    patient, follow_up = image.removesuffix(".png").split("_")
    return f"{image},{findings},{int(follow_up)},{int(patient)},{age},{sex},{view},2500,2048,0.168,0.143"


def nih_table(path: Path, rows: Sequence[tuple[str, str, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        nih_line(image, findings, age, "FM"[int(image[:8]) % 2], ("PA", "AP")[int(image[9:12]) % 2])
        for image, findings, age in rows
    ]
    text = "\n".join((NIH_HEADER, *lines)) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, "utf-8")


def nih_lists(folder: Path, rows: Sequence[tuple[str, str, int]]) -> None:
    """The official lists: every fourth patient is on the test list."""
    folder.mkdir(parents=True, exist_ok=True)
    test = [image for image, _, _ in rows if int(image[:8]) % 4 == 0]
    train_val = [image for image, _, _ in rows if int(image[:8]) % 4]
    (folder / "test_list.txt").write_text("\n".join(test), "ascii")
    (folder / "train_val_list.txt").write_text("\n".join(train_val) + "\n", "ascii")


def nih_shipped(data: Path) -> None:
    """As NIH ships it: PNG in two of the folders, one image that was never unpacked."""
    rng = np.random.default_rng(0)
    rows = nih_rows()
    nih_table(data / "Data_Entry_2017_v2020.csv", [*rows, ("00000099_000.png", "Hernia", 50)])
    nih_lists(data, [*rows, ("00000099_000.png", "Hernia", 50)])
    for index, (image, findings, _) in enumerate(rows):
        picture(data / f"images_{1 + index % 2:03d}" / "images" / image, "Pneumonia" in findings, rng)


def nih_selection(data: Path) -> None:
    """The three sizes, as JPEG and PNG, with patients that are in more than one."""
    rng = np.random.default_rng(0)
    rows = nih_rows(90, 1)
    nih_lists(data / "metadata", rows)
    for name, taken, suffix in (
        ("cxr14", rows[:60], ".jpg"),
        ("cxr14-300", [(image, "No Finding", age) for image, _, age in rows[50:70]], ".jpg"),
        # Another finding than in the larger picture of the same patient: it must not move them.
        ("cxr14-64", [(image, "Pneumonia", age) for image, _, age in rows[40:60]] + rows[60:], ".png"),
    ):
        lines = []
        for image, findings, age in taken:
            file = Path(image).with_suffix(suffix).name
            picture(data / name / file, "Pneumonia" in findings, rng)
            patient = int(image[:8])
            lines.append(
                {
                    "Image Index": image,
                    "file": file,
                    "Finding Labels": findings,
                    "Follow-up #": 0,
                    "Patient ID": patient,
                    "Patient Age": age,
                    "Patient Gender": "FM"[patient % 2],
                    "View Position": ("PA", "AP")[patient % 2],
                    "rsna_class": ("Lung Opacity", "", "Normal", "No Lung Opacity / Not Normal")[patient % 4],
                    "google_airspace_opacity": ("YES", "NO", "")[patient % 3],
                }
            )
        table(data / name / "labels.csv", SELECTION_COLUMNS, lines)


def example(image: bytes | None, name: str | None, findings: str | None) -> bytes:
    """One record of the TFRecord form; what is None is left out."""
    from tensorflow.train import BytesList, Example, Feature, Features, Int64List

    features = {}
    if image is not None:
        features["image"] = Feature(bytes_list=BytesList(value=[image]))
    if name is not None:
        features["image_id"] = Feature(bytes_list=BytesList(value=[name.encode()]))
    if findings is not None:
        said = findings.split("|")
        for finding in NIH_NAMES:
            features[finding] = Feature(int64_list=Int64List(value=[int(finding in said)]))
    return Example(features=Features(feature=features)).SerializeToString()


def tfrecord(path: Path, records: Sequence[bytes]) -> None:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def jpeg(haze: bool, rng: np.random.Generator) -> bytes:
    return cv2.imencode(".jpg", phantom(haze, rng))[1].tobytes()


def place_of(image: str) -> str:
    """The path that the TFRecord form names an image by."""
    return f"../input/data/images_001/images/{image}"


def tfrecord_table(path: Path, rows: Sequence[tuple[str, str, int]]) -> None:
    lines = [
        {"": place_of(image), **{finding: str(finding in findings.split("|")) for finding in NIH_NAMES}}
        for image, findings, _ in rows
    ]
    table(path, ("", *NIH_NAMES), lines)


def nih_tfrecords(data: Path, *, named: bool = True, official: bool = True) -> None:
    """TFRecords in three files; `named` puts image_id in, `official` NIH's own table and lists beside."""
    rng = np.random.default_rng(0)
    rows = nih_rows()
    for number in range(3):
        part = rows[number * 16 : (number + 1) * 16]
        examples = [
            example(jpeg("Pneumonia" in findings, rng), place_of(image) if named else None, findings)
            for image, findings, _ in part
        ]
        tfrecord(data / "data" / f"{number:03d}-{len(part)}.tfrec", examples)
    tfrecord_table(data / "preprocessed_data.csv", rows)
    if official:
        nih_table(data / "Data_Entry_2017.csv.gz", rows)
        nih_lists(data, rows)


def kermany_kaggle(data: Path) -> None:
    """As Kaggle's archive unpacks, with what a Mac leaves in it."""
    rng = np.random.default_rng(0)
    folder = data / "chest_xray"
    for split, first, count in (("train", 100, 20), ("val", 300, 2), ("test", 1, 8)):
        for number in range(first, first + count):
            picture(folder / split / "NORMAL" / f"IM-{number:04d}-0001.jpeg", False, rng)
            picture(folder / split / "NORMAL" / f"NORMAL2-IM-{number:04d}-0001-0002.jpeg", False, rng)
            for subtype in ("bacteria", "virus"):
                name = f"person{number + 500 * (subtype == 'virus')}_{subtype}_{number * 3}.jpeg"
                picture(folder / split / "PNEUMONIA" / name, True, rng)
    (folder / "train" / "NORMAL" / "._IM-0100-0001.jpeg").write_bytes(b"Mac OS X")
    (folder / "train" / "NORMAL" / ".DS_Store").write_bytes(b"Mac OS X")


def kermany_table(data: Path) -> None:
    """With a table of labels, and some of the pictures in their own aspect."""
    rng = np.random.default_rng(0)
    rows = []
    for split, first, count in (("train", 100, 20), ("test", 1, 8)):
        for number in range(first, first + count):
            for label, file, subtype in (
                ("NORMAL", f"IM-{number:04d}-0001.jpeg", ""),
                ("PNEUMONIA", f"person{number}_virus_{number}.jpeg", "virus"),
            ):
                picture(data / "kermany" / split / label / file, label == "PNEUMONIA", rng)
                native = split == "train" and number % 2 == 0
                if native:
                    picture(data / "kermany-native" / split / label / file, label == "PNEUMONIA", rng, 48)
                rows.append(
                    {
                        "split": split,
                        "label": label,
                        "file": file,
                        "subtype": subtype,
                        "patient": file.rpartition("-")[0] if label == "NORMAL" else f"person{number}",
                        "native": int(native),
                    }
                )
    columns = ("split", "label", "file", "subtype", "patient", "duplicate_group", "native", "width", "height")
    table(data / "kermany" / "labels.csv", columns, rows)


RSNA_READ = ("Lung Opacity", "Normal", "No Lung Opacity / Not Normal")


def rsna_challenge(data: Path, *, images: int = 18) -> None:
    """The challenge's own tables and DICOM files; number 5 is a child, number 7 is 151 years old."""
    rng = np.random.default_rng(0)
    classes, targets = [], []
    for number in range(images):
        name, read = f"0000-{number:04d}", RSNA_READ[number % 3]
        age = {5: "9", 7: "151"}.get(number, f"{30 + number}")
        dicom(
            data / "stage_2_train_images" / f"{name}.dcm",
            read == "Lung Opacity",
            rng,
            PatientID=name,
            PatientAge=f"{age:0>3}Y",
            PatientSex="FM"[number % 2],
            ViewPosition=("PA", "AP")[number % 2],
        )
        for _ in range(2 if read == "Lung Opacity" else 1):  # a row for each box
            classes.append({"patientId": name, "class": read})
            targets.append({"patientId": name, "Target": int(read == "Lung Opacity")})
    table(data / "stage_2_detailed_class_info.csv", ("patientId", "class"), classes)
    table(data / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), targets)


def rsna_match(folder: Path, images: int = 18) -> None:
    """The match with NIH: two images of one patient each; the last one matches badly."""
    rows: list[dict[str, object]] = [
        {
            "rsna_id": f"0000-{number:04d}",
            "rsna_class": RSNA_READ[number % 3],
            "rsna_target": int(number % 3 == 0),
            "nih_image_index": f"{1 + number // 2:08d}_{number % 2:03d}.png",
            "match_mse": 50 if number == images - 1 else 1.2,
        }
        for number in range(images)
    ]
    table(folder / "rsna_labels_with_nih_match.csv", tuple(rows[0]), rows)


def folder_table(data: Path) -> None:
    """A site's table with a PNG, a JPEG and a DICOM file in turn, in parts of its own."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for number in range(18):
        part = ("train", "tune", "test")[number % 3]
        suffix = ("png", "jpg", "dcm")[(number // 3) % 3]
        path = f"pictures/p{number}.{suffix}"
        if suffix == "dcm":
            dicom(data / path, number % 2 == 0, rng, PatientID=f"secret{number}", PatientAge="051Y")
        else:
            picture(data / path, number % 2 == 0, rng)
        rows.append(
            {
                "path": path,
                "patient": f"p{number}",
                "split": part,
                "age": "" if suffix == "dcm" else 40 + number,
                "sex": "" if suffix == "dcm" else "M",
                "view": "" if suffix == "dcm" else "AP",
                "pneumonia": int(number % 2 == 0),
                "effusion": ("1", "0", "")[number % 3],
                "scanner": "A",
            }
        )
    table(data / "cases.csv", tuple(rows[0]), rows)


def folder_classes(data: Path) -> None:
    """A site's class folders without parts."""
    rng = np.random.default_rng(0)
    for number in range(40):
        name = "Pneumonia" if number % 2 == 0 else "NORMAL"
        for image in range(2):
            picture(data / name / f"p{number}_{image}.png", number % 2 == 0, rng)
    dicom(data / "Pneumonia" / "deep" / "a_b.dcm", True, rng, PatientID="secret")


# Every form of every cohort: (cohort, form) to the function that writes it.
FORMS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("nih", "as shipped"): nih_shipped,
    ("nih", "TFRecords"): nih_tfrecords,
    ("nih", "selection"): nih_selection,
    ("kermany", "Kaggle"): kermany_kaggle,
    ("kermany", "table"): kermany_table,
    ("rsna", "challenge"): rsna_challenge,
    ("folder", "table"): folder_table,
    ("folder", "classes"): folder_classes,
}
