"""`cxr-node send`: a small C-STORE SCU for trying a node out. Files go as they are, in their own transfer syntax."""

import argparse
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID
from pynetdicom import AE

from cxr_node.errors import CxrNodeError, SettingsError, Unreachable, UnreadableDataset
from cxr_node.imaging import read_header
from cxr_node.requestor import associate

MAXIMUM_CONTEXTS = 128  # presentation context ids are odd numbers up to 255


@dataclass(frozen=True)
class Peer:
    """AE title, address and port, as written ``AE@HOST:PORT``."""

    ae_title: str
    host: str
    port: int


def parse_peer(text: str) -> Peer:
    """Read ``AE@HOST:PORT``.

    Raises
    ------
    SettingsError
        It is not of that form.
    """
    match = re.fullmatch(r"([^@]{1,16})@(.+):(\d{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise SettingsError(f"--to: expected AE@HOST:PORT, found {text!r}")
    return Peer(match[1], match[2].strip("[]"), int(match[3]))


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files, folders searched in order of name.

    Raises
    ------
    CxrNodeError
        A path does not exist.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(item for item in path.rglob("*") if item.is_file())
        elif path.is_file():
            yield path
        else:
            raise CxrNodeError(f"{path}: no such file or folder")


@dataclass(frozen=True)
class Sent:
    """What became of a file: a DIMSE status, or why it was not sent."""

    path: Path
    status: int | None
    reason: str = ""


def send_files(
    paths: Sequence[Path], peer: Peer, calling: str, context: ssl.SSLContext | None = None
) -> Iterator[Sent]:
    """Send the files over one association, yielding what became of each; inside TLS with a `context`.

    Raises
    ------
    Unreachable
        The association could not be opened.
    """
    kinds: dict[Path, tuple[UID, UID]] = {}
    for path in paths:
        try:
            header = read_header(path)
            kinds[path] = (UID(str(header.SOPClassUID)), UID(str(header.file_meta.TransferSyntaxUID)))
        except (UnreadableDataset, AttributeError):
            yield Sent(path, None, "not a DICOM file with SOP Class UID and Transfer Syntax UID")
    ae = AE(ae_title=calling)
    for kind in sorted(set(kinds.values()))[:MAXIMUM_CONTEXTS]:
        ae.add_requested_context(kind[0], kind[1])
    if not kinds:
        return
    tls_args = None if context is None else (context, peer.host)
    association = associate(ae, peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls_args)
    if not association.is_established:
        why = "refused by the peer" if association.is_rejected else "no answer"
        raise Unreachable(f"no association with {peer.ae_title} at {peer.host}:{peer.port}: {why}")
    try:
        for path in kinds:
            try:
                answer = association.send_c_store(path)
            except ValueError:
                yield Sent(path, None, "the peer accepts neither its SOP class nor its transfer syntax")
                continue
            yield Sent(path, answer.Status if "Status" in answer else None, str(answer.get("ErrorComment", "") or ""))
    finally:
        if association.is_established:
            association.release()


def send(settings: object, arguments: argparse.Namespace) -> int:
    """Send and print one line per file; the exit status is 1 if any was not stored."""
    stored = total = 0
    for sent in send_files(list(files_of(arguments.paths)), parse_peer(arguments.to), arguments.calling):
        total += 1
        ok = sent.status is not None and (sent.status == 0 or sent.status & 0xF000 == 0xB000)
        stored += ok
        status = f"0x{sent.status:04X}" if sent.status is not None else "not sent"
        print(f"{'stored  ' if ok else 'REFUSED '} {status}  {sent.path}{'  ' + sent.reason if sent.reason else ''}")
    print(f"{stored} of {total} stored")
    return 0 if stored == total and total else 1
