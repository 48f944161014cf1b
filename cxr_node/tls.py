"""TLS of what the node calls, in one place: DICOM, HL7 and HTTPS alike. Source: DICOM PS3.15 B.12 (BCP 195)."""

import ssl
from collections.abc import Mapping
from pathlib import Path


def client_context(files: Mapping[str, Path]) -> ssl.SSLContext:
    """Return a client's context: TLS 1.2 or newer, the other side's certificate and name verified.

    Made anew for each connection, so that a renewed certificate needs no restart.

    Parameters
    ----------
    files : any of `certificate`, `key` and `ca`; without `ca` the system's own authorities are trusted

    Raises
    ------
    OSError
        A file cannot be used; ssl.SSLError is one.
    """
    context = ssl.create_default_context(cafile=files.get("ca"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if "certificate" in files:
        context.load_cert_chain(files["certificate"], files.get("key"))
    return context
