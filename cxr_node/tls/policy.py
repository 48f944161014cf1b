"""What is spoken: TLS 1.2 with ECDHE and AEAD suites, TLS 1.3 preferred, no renegotiation, no compression, no tickets.

Without tickets a session can be resumed only at the same context, so never past a renewal of its files.
Source: RFC 9325 3 and 4.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Minimum = Literal["1.2", "1.3"]

# RFC 9325 4.2: of TLS 1.2 only suites with forward secrecy and AEAD. Those of TLS 1.3 have both and are not named here.
SUITES_OF_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"


def client_context(files: Mapping[str, Path], *, minimum: Minimum = "1.2") -> ssl.SSLContext:
    """Return a client's context: the other side's certificate and name, or address, verified.

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
    harden(context, minimum)
    if "certificate" in files:
        # A password, and be it empty, or the library would ask for one on a terminal.
        context.load_cert_chain(files["certificate"], files.get("key"), password="")
    return context


def own_context(files: Mapping[str, Path], *, minimum: Minimum = "1.2") -> ssl.SSLContext:
    """Return the context by which the node calls a listener of its own, on this machine's loopback.

    Trusted are the listener's own certificate and `ca`; the certificate names the machine, so the name is not checked.
    The same certificate is shown to the listener: one that signs callers by another authority refuses it.

    Parameters
    ----------
    files : `certificate`, `key` and, where the listener has it, `ca`

    Raises
    ------
    OSError
        A file cannot be used; ssl.SSLError is one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    harden(context, minimum)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself, whoever signed it
    context.load_cert_chain(files["certificate"], files["key"], password="")
    for name in ("certificate", "ca"):
        if name in files:
            context.load_verify_locations(files[name])
    return context


def harden(context: ssl.SSLContext, minimum: Minimum) -> None:
    """Bring a context to the policy of this module."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES_OF_1_2)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
