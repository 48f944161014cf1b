"""DICOM TLS: a caller without a certificate is refused, and one that says nothing holds up nobody."""

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom import AE

from cxr_node.requestor import associate
from tests.builders import make_radiograph_dataset
from tests.cxr_node.receive import wire
from tests.cxr_node.receive.conftest import Receiver

pytestmark = [
    pytest.mark.requirement("SRS-RCV-015"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("node", "caller", "stranger"):
        made = [*["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"], "-subj", f"/CN={name}"]
        made += ["-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subprocess.run([*made, *files], check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_receiver(start_receiver: Callable[..., Receiver], certificates: Path, transport: str) -> Receiver:
    return start_receiver(
        receive__transport=transport,
        receive__idle_timeout_s="2",
        receive__tls__certificate=str(certificates / "node.pem"),
        receive__tls__key=str(certificates / "node.key"),
        receive__tls__ca=str(certificates / "caller.pem"),
    )


def _send(receiver: Receiver, certificates: Path, name: str | None, dataset=None):
    context = ssl.create_default_context(cafile=str(certificates / "node.pem"))
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    ae = AE(ae_title="CR_ROOM_1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 30
    dataset = dataset if dataset is not None else make_radiograph_dataset()
    ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE", tls_args=(context, "127.0.0.1"))
    if not association.is_established:
        return None
    try:
        return association.send_c_store(dataset).Status
    finally:
        association.release()


def test_a_known_certificate_is_let_in_while_another_caller_says_nothing(tls_receiver, certificates):
    """In the library's accept loop one silent connection keeps every other caller out."""
    with wire.connect(tls_receiver.port), wire.connect(tls_receiver.port):
        assert _send(tls_receiver, certificates, "caller") == 0x0000


@pytest.mark.parametrize("name", ["stranger", None])
def test_a_caller_without_a_known_certificate_is_refused(tls_receiver, certificates, name):
    """BCP 195 and mutual authentication (PS3.15 B.12)."""
    assert _send(tls_receiver, certificates, name) is None
    assert _send(tls_receiver, certificates, "caller") == 0x0000


def test_plain_dicom_is_refused(tls_receiver, certificates):
    """Nothing goes over the wire in clear by mistake."""
    with wire.connect(tls_receiver.port) as connection:
        connection.sendall(wire.association_request("1.2.840.10008.1.1"))
        assert wire.receive_pdu(connection)[0] != wire.A_ASSOCIATE_AC
    assert _send(tls_receiver, certificates, "caller") == 0x0000


def test_large_objects_come_through_whole(tls_receiver, certificates):
    """What TLS has decrypted and nobody has read is seen by no poll."""
    import numpy as np

    dataset = make_radiograph_dataset(np.random.default_rng(2).integers(0, 4096, (1500, 1500)).astype(np.uint16))
    assert _send(tls_receiver, certificates, "caller", dataset) == 0x0000
    (row,) = tls_receiver.of(dataset.SOPInstanceUID)
    assert tls_receiver.files.read(row.location).endswith(dataset.PixelData)
