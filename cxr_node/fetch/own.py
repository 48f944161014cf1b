"""What was fetched over HTTP goes to the node's own Storage SCP, so that one intake decides about everything."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID
from pynetdicom import AE

from cxr_node.errors import SourceRefused, SourceUnavailable, UnreadableDataset
from cxr_node.imaging import read_header
from cxr_node.requestor import associate
from cxr_node.settings import Settings
from cxr_node.tls import own_context

CALLING = "CXR_BACKFILL"
_MAXIMUM_CONTEXTS = 128  # presentation context ids are odd numbers up to 255
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Passed:
    """How many files the node took; `reason` is about the first that it did not."""

    stored: int
    refused: int
    reason: str = ""


def own_host(settings: Settings) -> str:
    """Return the address that the node's listener is reached under from this machine."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.receive.host, settings.receive.host)


def pass_on(paths: Sequence[Path], settings: Settings) -> Passed:
    """Send the files by C-STORE over one association, as they are.

    Raises
    ------
    SourceUnavailable, SourceRefused
        The node takes no association from us.
    """
    kinds: dict[Path, tuple[str, str]] = {}
    reason = ""
    for path in paths:
        try:
            header = read_header(path)
            kinds[path] = (str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID))
        except (UnreadableDataset, AttributeError):
            reason = "an instance is no DICOM file with SOP Class UID and Transfer Syntax UID"
    wanted = sorted(set(kinds.values()))[:_MAXIMUM_CONTEXTS]
    stored = 0
    if wanted:
        association = _associate(wanted, settings)
        try:
            for path in kinds:
                try:
                    answer = association.send_c_store(path)
                except ValueError:
                    reason = reason or f"the node takes no {UID(kinds[path][0]).name} in {UID(kinds[path][1]).name}"
                    continue
                except RuntimeError as error:
                    raise SourceUnavailable("the node's own listener broke the association off") from error
                if "Status" not in answer:
                    raise SourceUnavailable("the node's own listener broke the association off")
                if answer.Status == 0:
                    stored += 1
                else:
                    reason = reason or f"the node answered 0x{answer.Status:04X} {answer.get('ErrorComment', '') or ''}"
        finally:
            if association.is_established:
                association.release()
    return Passed(stored, len(paths) - stored, reason.strip())


def _associate(kinds: Sequence[tuple[str, str]], settings: Settings):  # type: ignore[no-untyped-def]
    receive = settings.receive
    ae = AE(ae_title=CALLING)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _TIMEOUT_S
    for sop_class_uid, syntax in kinds:
        ae.add_requested_context(sop_class_uid, syntax)
    where = f"the node's own listener at {own_host(settings)}:{receive.port}"
    association = associate(
        ae,
        own_host(settings),
        receive.port,
        ae_title=receive.ae_title,
        tls_args=None if (context := tls_of_listener(settings)) is None else (context, own_host(settings)),
    )
    if association.is_established:
        return association
    if association.is_rejected:
        raise SourceRefused(f"{where} refuses {CALLING}: add a [[caller]] with that ae_title to node.toml")
    if association.rejected_contexts:
        names = ", ".join(sorted({UID(sop_class_uid).name for sop_class_uid, _ in kinds}))
        raise SourceUnavailable(f"{where} takes none of {names}")
    raise SourceUnavailable(f"{where} does not answer: is the node running?")


def tls_of_listener(settings: Settings) -> ssl.SSLContext | None:
    """Return the context for the node's own listener, None where that speaks no TLS.

    Raises
    ------
    SourceRefused
        The files cannot be used.
    """
    tls = settings.receive.tls
    if not tls.enabled:
        return None
    named = {"certificate": tls.certificate, "key": tls.key, "ca": tls.ca}
    files = {name: settings.path(value) for name, value in named.items() if value}
    try:
        return own_context(files, minimum=settings.node.tls_minimum)
    except (OSError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else "certificate and key are both needed"
        raise SourceRefused(f"receive.tls: the files cannot be used: {why}") from error
