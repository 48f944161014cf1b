"""What the inputs are given to, one row each in TARGETS.

A target takes bytes and returns a word for what came of them. Whatever it raises is a defect, and so is a server that
does not answer a well-meant request afterwards.
"""

import contextlib
import itertools
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmwrite
from pynetdicom import AE
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import Verification

from cxr_node.analyze.apart import Apart, CallFailed
from cxr_node.analyze.look import look
from cxr_node.clock import utc_now
from cxr_node.errors import UnreadableDataset, UnreadablePixels
from cxr_node.imaging import radiograph_from_dicom_file, read_header
from cxr_node.imaging.pictures import check_picture_size
from cxr_node.inference import find_package, package_folders
from cxr_node.multipart import BadMultipart, PartsToFiles
from cxr_node.orders import hl7_message
from cxr_node.receive.intake import Intake, Requested
from cxr_node.receive.records import Sender
from cxr_node.receive.scp import StorageScp
from cxr_node.requestor import associate
from cxr_node.settings import Settings, load_settings
from cxr_node.worklist import matching
from cxr_node.worklist.dicom_scp import WorklistScp
from cxr_node.worklist.services import make_services
from cxr_node.worklist.web.drop.unpack import unpack
from storage import Database, Doorbell, InstanceFiles, instances
from tests.fuzz import seeds
from tests.fuzz.mutate import BYTES, DATASETS, PDUS, TEXTS, Mutator, pdus

Run = Callable[[bytes], str]
ANSWERED_WITHIN_S = 20.0
ANSWER_S = 0.3  # to an association request; one that is cut short has none
PACKAGES = ("pneumonia-adult", "pneumonia-paediatric")
ASK_EVERY = 50  # inputs of a server between two well-meant requests
SENDER = Sender("FUZZ", "CXR_NODE", "127.0.0.1", "fuzz")


class Defect(AssertionError):
    """The input did what no input may do."""


@dataclass(frozen=True)
class Target:
    """One way in. `start` opens it over a folder of its own and yields what takes an input."""

    name: str
    says: str
    seeds: Callable[[], Sequence[bytes]]
    mutators: Sequence[Mutator]
    start: Callable[[Path], contextlib.AbstractContextManager[Run]]


@contextlib.contextmanager
def _header(folder: Path) -> Iterator[Run]:
    path = folder / "input.dcm"

    def run(data: bytes) -> str:
        path.write_bytes(data)
        try:
            header = read_header(path)
        except UnreadableDataset:
            return "unreadable"
        for element in header.iterall():  # what was returned converts
            _ = element.value
        return "read"

    yield run


@contextlib.contextmanager
def _intake(folder: Path) -> Iterator[Run]:
    settings = _settings(folder)
    database, files = _storage(settings)
    intake = _make_intake(settings, database, files)

    def run(data: bytes) -> str:
        path = files.new_temporary()
        path.write_bytes(data)
        uid, kind = "1.2.3", "1.2.840.10008.5.1.4.1.1.1.1"
        with contextlib.suppress(UnreadableDataset):
            header = read_header(path)
            uid, kind = str(header.get("SOPInstanceUID", uid)), str(header.get("SOPClassUID", kind))
        accepted = intake.accept(path, Requested(kind, uid.strip(), "1.2.840.10008.1.2.1"), SENDER, now=utc_now)
        with database.read() as connection:
            kept = instances.by_sop_instance_uid(connection, uid.strip())
        if accepted.answer.status == 0 and not any(files.read(item.location) for item in kept):
            raise Defect("Success was answered for an instance that is not there")
        if path.exists():
            raise Defect("the temporary file was left behind")
        return f"0x{accepted.answer.status:04X}"

    yield run
    database.dispose()


@contextlib.contextmanager
def _pixels(folder: Path) -> Iterator[Run]:
    path = folder / "input.dcm"

    def run(data: bytes) -> str:
        path.write_bytes(data)
        try:
            radiograph = radiograph_from_dicom_file(path)
        except UnreadableDataset:
            return "unreadable dataset"
        except UnreadablePixels:
            return "unreadable pixels"
        if not (radiograph.grayscale.min() >= 0 and radiograph.grayscale.max() <= 1):
            raise Defect("gray values outside 0 to 1")
        return "decoded"

    yield run


@contextlib.contextmanager
def _decoders(folder: Path) -> Iterator[Run]:
    path, apart = folder / "input.dcm", Apart(decoded, longest_s=30.0)

    def run(data: bytes) -> str:
        path.write_bytes(data)
        try:
            return str(apart(path))
        except CallFailed:
            return "the decoder's process ended"  # and nothing else did

    yield run
    apart.close()


def decoded(path: Path) -> str:
    """Decode in a process apart; return what came of it."""
    try:
        radiograph_from_dicom_file(path)
    except UnreadableDataset:
        return "unreadable dataset"
    except UnreadablePixels:
        return "unreadable pixels"
    return "decoded"


@contextlib.contextmanager
def _look(folder: Path) -> Iterator[Run]:
    path, preview, apart = folder / "input", folder / "preview.png", Apart(looked_at, longest_s=30.0)

    def run(data: bytes) -> str:
        path.write_bytes(data)
        preview.unlink(missing_ok=True)
        try:
            return str(apart(path, preview))
        except CallFailed:
            return "the process ended"

    yield run
    apart.close()


def looked_at(path: Path, preview: Path) -> str:
    """Look at a file in a process apart, as the drop page has it done; return the reason why no model sees it."""
    packages = [
        find_package(name, package_folders(path.parent)) for name in ("pneumonia-adult", "pneumonia-paediatric")
    ]
    found = look(path, preview, population="adult", profile="triage", packages=packages)
    return found.exclusion.reason if found.exclusion is not None else "would be scored"


@contextlib.contextmanager
def _storage_scp(folder: Path) -> Iterator[Run]:
    settings = _settings(folder)
    database, files = _storage(settings)
    intake = _make_intake(settings, database, files)
    scp = StorageScp(settings, intake, database, files.new_temporary().parent)
    scp.start()
    with _watched():
        yield _server(scp.port, "CXR_NODE")
    scp.close()
    database.dispose()


@contextlib.contextmanager
def _worklist_scp(folder: Path) -> Iterator[Run]:
    settings = _settings(folder)
    database, _ = _storage(settings)
    scp = WorklistScp(settings, make_services(settings, database, utc_now))
    scp.start()
    with _watched():
        yield _server(scp.port, "CXR_WORKLIST")
    scp.stop()
    database.dispose()


def _server(port: int, called: str) -> Run:
    count = itertools.count(1)

    def run(data: bytes) -> str:
        heard = _exchange(port, data)
        if next(count) % ASK_EVERY == 0:
            _echo(port, called)
        return {0: "closed", 2: "accepted", 3: "rejected", 7: "aborted"}.get(heard, f"PDU {heard}")

    return run


def _exchange(port: int, data: bytes) -> int:
    """Send the first unit, wait a moment for its answer as senders do, send the rest, then read until the server
    closes; return the type of its first unit."""
    units = pdus(data) or [data]
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWERED_WITHIN_S) as connection:
        first = 0
        try:
            connection.sendall(units[0])
            if len(units) > 1 and select.select([connection], [], [], ANSWER_S)[0]:
                answer = connection.recv(65536)
                first = answer[0] if answer else 0
            connection.sendall(data[len(units[0]) :])
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                first = first or part[0]
        except TimeoutError as error:
            raise Defect(f"the connection was still open {ANSWERED_WITHIN_S:g} s after its end") from error
        except OSError:
            pass  # the server was first to close
        return first


def _echo(port: int, called: str) -> None:
    ae = AE(ae_title="FUZZ")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWERED_WITHIN_S
    ae.add_requested_context(Verification)
    association = associate(ae, "127.0.0.1", port, ae_title=called)
    if not association.is_established:
        raise Defect("no association for a C-ECHO after the inputs")
    answer = association.send_c_echo()
    association.release()
    if "Status" not in answer or answer.Status != 0:
        raise Defect("C-ECHO was not answered with Success after the inputs")


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """An exception that ends a thread of the server is a defect, though a new thread serves the next."""
    ended: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, ended.append
    try:
        yield
    finally:
        threading.excepthook = before
    if ended:
        raise Defect(f"a thread ended with {ended[0].exc_type.__name__}: {ended[0].exc_value}")


@contextlib.contextmanager
def _hl7(folder: Path) -> Iterator[Run]:
    def run(data: bytes) -> str:
        read = hl7_message.decode(data)
        if isinstance(read, hl7_message.Rejection):
            return f"rejected {read.code}"
        found = hl7_message.read_orders(*read)
        return f"rejected {found.code}" if isinstance(found, hl7_message.Rejection) else "orders"

    yield run


@contextlib.contextmanager
def _multipart(folder: Path) -> Iterator[Run]:
    numbers = itertools.count()

    def run(data: bytes) -> str:
        taken: list[Path] = []
        parts = PartsToFiles("b", lambda: folder / f"{next(numbers)}", lambda part: taken.append(part.path))
        try:
            for start in range(0, len(data), 4096):
                parts.write(data[start : start + 4096])
            parts.finish()
            return "read"
        except BadMultipart:
            return "no multipart body"
        finally:
            parts.close()
            for path in taken:
                path.unlink(missing_ok=True)
            if any(folder.iterdir()):
                raise Defect("a part's file was left behind")

    yield run


@contextlib.contextmanager
def _matching(folder: Path) -> Iterator[Run]:
    items = seeds.worklist_keys()

    def run(data: bytes) -> str:
        try:
            keys = decode(BytesIO(data), False, True)
            for element in keys.iterall():
                _ = element.value
        except Exception:  # noqa: BLE001  # the library's business; the SCP answers what it cannot decode with a status
            return "undecodable"
        matching.repair_text(keys)
        zone = matching.zone_of(keys) or utc_now().tzinfo
        assert zone is not None
        return "matches" if [matching.matches(keys, item, zone) for item in items].count(True) else "matches nothing"

    yield run


def _keys() -> list[bytes]:
    found = []
    for dataset in seeds.worklist_keys():
        buffer = BytesIO()
        dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
        found.append(buffer.getvalue())
    return found


@contextlib.contextmanager
def _zips(folder: Path) -> Iterator[Run]:
    source, numbers = folder / "input.zip", itertools.count()
    out = folder / "out"
    out.mkdir()

    def run(data: bytes) -> str:
        source.write_bytes(data)
        entries = list(unpack(source, lambda: out / f"{next(numbers)}", most_files=10, most_bytes=1 << 22))
        kept = {entry.path for entry in entries if entry.path is not None}
        if set(out.iterdir()) != kept:
            raise Defect("a file was left that no entry names")
        for path in kept:
            path.unlink()
        return "refused in part" if any(entry.reason for entry in entries) else "unpacked"

    yield run


@contextlib.contextmanager
def _picture_heads(folder: Path) -> Iterator[Run]:
    def run(data: bytes) -> str:
        try:
            check_picture_size(data)
        except UnreadablePixels:
            return "refused"
        return "taken"

    yield run


def _settings(folder: Path) -> Settings:
    return load_settings(
        None,
        {
            "CXR_NODE__NODE__DATA_DIR": str(folder / "data"),
            "CXR_NODE__RECEIVE__PORT": "0",
            "CXR_NODE__RECEIVE__MIN_FREE_GB": "0.01",
            "CXR_NODE__RECEIVE__IDLE_TIMEOUT_S": "5",
            "CXR_NODE__WORKLIST__DICOM_PORT": "0",
        },
    )


def _storage(settings: Settings) -> tuple[Database, InstanceFiles]:
    database = Database(settings.database_url)
    database.migrate()
    return database, InstanceFiles(settings.instances_dir)


def _make_intake(settings: Settings, database: Database, files: InstanceFiles) -> Intake:
    return Intake(database, files, Doorbell(settings.data_dir / "run"), quiet_period_s=1.0, min_free_bytes=1e7)


def _all_pictures() -> list[bytes]:
    return [*seeds.pictures(), seeds.png_of(50_000, 50_000)]


def _looked_at() -> list[bytes]:
    return [*seeds.files(), *seeds.compressed_files(), *seeds.pictures()]


TARGETS = (
    Target("header", "the header of a file, read without its pixels", seeds.files, DATASETS, _header),
    Target("intake", "a received file, from disk to status", seeds.files, DATASETS, _intake),
    Target("pixels", "uncompressed pixels to gray values", seeds.files, DATASETS, _pixels),
    Target("decoders", "compressed pixels, in a process apart", seeds.compressed_files, DATASETS, _decoders),
    Target("look", "files of the page where images are tried", _looked_at, DATASETS, _look),
    Target("storage-scp", "PDUs to the Storage SCP, over a socket", seeds.storage_streams, PDUS, _storage_scp),
    Target("worklist-scp", "PDUs to the worklist SCP, over a socket", seeds.worklist_streams, PDUS, _worklist_scp),
    Target("matching", "identifiers of C-FIND", _keys, DATASETS, _matching),
    Target("hl7", "HL7 orders", seeds.orders, TEXTS, _hl7),
    Target("multipart", "bodies of STOW-RS", seeds.bodies, BYTES, _multipart),
    Target("zips", "zips of the page where images are tried", seeds.archives, BYTES, _zips),
    Target("pictures", "heads of PNG and JPEG", _all_pictures, BYTES, _picture_heads),
)
