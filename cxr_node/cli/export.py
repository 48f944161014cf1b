"""`export`: studies without identity, for research, and a table of what models and readers said of them."""

import argparse
import csv
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TextIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from cxr_node import __version__
from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError, SettingsError
from cxr_node.imaging import is_image
from cxr_node.imaging.deidentify import Pseudonyms, deidentify, doubt_about_pixels
from cxr_node.settings import Settings
from cxr_node.work.files import instance_files
from storage import Database, InstanceFiles, audit, exports, instances, results
from storage.errors import BytesAltered, BytesMissing
from storage.instances import Instance

COLUMNS = (
    "patient", "study_instance_uid", "sop_instance_uid", "file", "study_status", "study_flagged", "verdict",
    "model", "model_version", "model_digest", "finding", "score", "probability",
)  # fmt: skip
_KEY_BYTES = 32


@dataclass
class _Told:
    """What came of an export; `left` counts instances by the reason that kept them back."""

    studies: int = 0
    images: int = 0
    left: dict[str, int] = field(default_factory=dict)

    def leave(self, reason: str) -> None:
        self.left[reason] = self.left.get(reason, 0) + 1


def export(settings: Settings, arguments: argparse.Namespace) -> int:
    """Write the studies that were asked for."""
    target: Path = arguments.to
    if target.exists() and any(target.iterdir()):
        raise SettingsError(f"export: {target} is not empty")
    pseudonyms = Pseudonyms(_key(arguments.key or settings.data_dir / "export.key"))
    database, files, told = Database(settings.database_url), instance_files(settings), _Told()
    try:
        database.migrate()
        chosen = _chosen(database, arguments)
        # Before the first image leaves: an export that is broken off is in the trail too.
        detail = {
            "studies": len(chosen),
            "dates": "shifted" if arguments.keep_dates_shifted else "removed",
            "burned_in": bool(arguments.allow_burned_in),
        }
        with database.begin() as connection:
            audit.record(connection, "deidentified_export", actor="cxr-node export", now=utc_now(), detail=detail)
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(target / "labels.csv", "x", encoding="utf-8", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(COLUMNS)
            for uid in chosen:
                for row in _study(database, files, uid, target, pseudonyms, arguments, told):
                    rows.writerow(row)
        with open(target / "export.json", "x", encoding="utf-8") as out:
            _describe(out, told, detail)
    finally:
        database.dispose()
    print(f"{told.images} images of {told.studies} studies in {target}, with labels.csv")
    for reason, number in sorted(told.left.items()):
        print(f"left out: {number}: {reason}")
    print("Pixels were not looked at: check them for names before they are given away.")
    return 0 if told.images or not told.left else 1


def _chosen(database: Database, arguments: argparse.Namespace) -> list[str]:
    with database.read() as connection:
        if arguments.study:
            unknown = [uid for uid in arguments.study if exports.study(connection, uid) is None]
            if unknown:
                raise SettingsError(f"export: {len(unknown)} of the studies are not here, the first: {unknown[0]}")
            return list(dict.fromkeys(arguments.study))
        since = arguments.since
        return exports.studies_since(connection, since if since.tzinfo else since.replace(tzinfo=UTC))


def _study(
    database: Database,
    files: InstanceFiles,
    uid: str,
    target: Path,
    pseudonyms: Pseudonyms,
    arguments: argparse.Namespace,
    told: _Told,
) -> Iterator[list[object]]:
    with database.read() as connection:
        study, held = exports.study(connection, uid), instances.of_study(connection, uid)
        own = results.object_uids(connection, uid)
        scores = {item.id: results.predictions(connection, item.id) for item in held}
    if study is None:
        return
    written = 0
    for item in held:
        if not is_image(item.sop_class_uid) or item.sop_instance_uid in own:
            told.leave("no image: reports and other objects are not exported")
            continue
        found = _cleaned(files, item, pseudonyms, arguments, told)
        if found is None:
            continue
        name = f"{found.PatientID}/{found.StudyInstanceUID}/{found.SOPInstanceUID}-{item.variant}.dcm"
        path = target / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Without a preamble of its sender, and nothing that was not written here.
        found.save_as(path, enforce_file_format=True)
        written += 1
        told.images += 1
        common = [found.PatientID, found.StudyInstanceUID, found.SOPInstanceUID, name]
        common += [study.status, int(study.flagged), study.verdict]
        for said in scores[item.id]:
            yield [
                *common,
                said.model,
                said.model_version,
                said.model_digest,
                said.finding,
                said.score,
                said.probability,
            ]
        if not scores[item.id]:
            yield [*common, "", "", "", "", "", ""]
    told.studies += bool(written)


def _cleaned(
    files: InstanceFiles, item: Instance, pseudonyms: Pseudonyms, arguments: argparse.Namespace, told: _Told
) -> Dataset | None:
    try:
        with files.local(item.location) as path:
            dataset = pydicom.dcmread(path, force=True)
            doubt = doubt_about_pixels(dataset)
            if doubt and not arguments.allow_burned_in:
                told.leave(f"{doubt} (--allow-burned-in takes it)")
                return None
            return deidentify(dataset, pseudonyms, shift_dates=arguments.keep_dates_shifted)
    except (BytesMissing, FileNotFoundError):
        told.leave("the bytes are gone")
    except BytesAltered:
        told.leave("the bytes were altered")
    except (CxrNodeError, InvalidDicomError, AttributeError, ValueError, TypeError, LookupError) as error:
        told.leave(f"it does not read or decode ({type(error).__name__})")
    return None


def _key(path: Path) -> bytes:
    """Return the key of the pseudonyms, made at the first use."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise SettingsError(f"export: {path} cannot be made: {error.strerror}") from error
    else:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{path} was made: whoever has it can compute pseudonyms from names, so keep it secret, and keep it:")
        print("without it a later export gives the same patient another pseudonym.")
    try:
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"export: {path}: others than its owner may read it; expected mode 600")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise SettingsError(f"export: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"export: {path} holds no key: expected {2 * _KEY_BYTES} hexadecimal digits") from error
    if len(key) != _KEY_BYTES:
        raise SettingsError(f"export: {path} holds {len(key)} bytes, expected {_KEY_BYTES}")
    return key


def _describe(out: TextIO, told: _Told, detail: Mapping[str, object]) -> None:
    profile = "DICOM PS3.15 2026c Annex E, Basic Application Level Confidentiality Profile"
    json.dump(
        {
            "release": __version__,
            "profile": profile,
            **detail,
            "studies": told.studies,
            "images": told.images,
            "left_out": told.left,
            "pixels": "not looked at",
        },
        out,
        indent=1,
    )
