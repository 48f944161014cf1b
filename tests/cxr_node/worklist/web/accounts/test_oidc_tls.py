"""The identity provider is called by the version of TLS that node.toml allows."""

import json
import socket
import ssl
import threading

import pytest

from cxr_node.settings import Oidc, Settings
from cxr_node.worklist.web.accounts.oidc import Provider, ProviderUnavailable
from tests.certificates import Authority


@pytest.fixture
def old_provider(tmp_path, monkeypatch):
    """A provider that speaks TLS 1.2 at most, trusted by this machine; its address."""
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("provider", dns=("localhost",))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*issued.pair)
    listener = socket.create_server(("127.0.0.1", 0))
    issuer = f"https://localhost:{listener.getsockname()[1]}"
    body = json.dumps({"issuer": issuer, "authorization_endpoint": f"{issuer}/authorize"}).encode()

    def serve():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                plain.settimeout(20)
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(65536)
                    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                    connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield issuer
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(20)


@pytest.mark.requirement("SRS-CLI-905")
@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
def test_a_provider_of_an_older_version_is_not_spoken_to(old_provider, tmp_path, minimum):
    """A site that asks for TLS 1.3 in and out means the way by which people sign in too."""
    settings = Settings(
        node={"data_dir": str(tmp_path), "tls_minimum": minimum},
        worklist={"oidc": Oidc(issuer=old_provider, client_id="node", reader=("*",))},
    )
    asked = {"redirect_uri": "https://node.example/back", "state": "s", "nonce": "n", "verifier": "v" * 43}
    if minimum == "1.2":
        assert Provider(settings).authorize_url(**asked).startswith(f"{old_provider}/authorize?")
    else:
        with pytest.raises(ProviderUnavailable, match="ConnectError"):
            Provider(settings).authorize_url(**asked)
