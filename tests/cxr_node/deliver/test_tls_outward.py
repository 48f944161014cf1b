"""Results leave inside TLS, to DCMTK's storescp in every profile, and to nobody else."""

import subprocess

import pytest

from cxr_node.errors import Unreachable
from cxr_node.settings import Tls
from tests.certificates import Authority, Issued
from tests.cxr_node.deliver.conftest import Node, Pacs, free_port, storescp

pytestmark = [pytest.mark.peer("storescp", "openssl"), pytest.mark.requirement("SRS-TLS-025")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def own(authority: Authority) -> Issued:
    return authority.issue("node")


@pytest.fixture
def stored(node: Node):
    return node.stored(node.plan("pacs")[0])


def tls(own: Issued, authority: Authority) -> Tls:
    return Tls(certificate=str(own.certificate), key=str(own.key), ca=str(authority.ca))


def scp_options(issued: Issued, authority: Authority, *more: str) -> list[str]:
    return ["+tls", str(issued.key), str(issued.certificate), "+cf", str(authority.ca), *more]


@pytest.mark.parametrize("profile", ["--profile-bcp195", "--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_every_profile_of_bcp_195_is_spoken(node, stored, authority, own, profile):
    """A PACS offers the one that its vendor tested."""
    pacs = Pacs(free_port())
    with storescp(pacs.port, *scp_options(authority.issue("pacs", kind="rsa"), authority, profile)):
        sent = node.sender(pacs.destination(tls=tls(own, authority))).send(stored)
    assert sent.sop_instance_uid == stored.sop_instance_uid


@pytest.mark.parametrize("profile", ["--profile-aes", "--profile-null"])
def test_a_peer_that_speaks_a_retired_profile_only_gets_nothing(node, stored, authority, own, profile):
    """Better a delivery that fails and is seen than one that anybody could read."""
    pacs = Pacs(free_port())
    with (
        storescp(pacs.port, *scp_options(authority.issue("pacs", kind="rsa"), authority, profile)),
        pytest.raises(Unreachable),
    ):
        node.sender(pacs.destination(tls=tls(own, authority))).send(stored)


def test_a_peer_whose_certificate_expired_or_names_another_gets_nothing(node, stored, authority, own):
    """Whoever took its address has some certificate too."""
    expired = authority.issue("old", days=-1)
    elsewhere = authority.issue("other", addresses=("127.0.0.9",))
    common_name_only = authority.issue("127.0.0.1", addresses=(), file="cn")
    for issued in (expired, elsewhere, common_name_only):
        pacs = Pacs(free_port())
        with (
            storescp(pacs.port, *scp_options(issued, authority)),
            pytest.raises(Unreachable, match="TLS certificate is not accepted"),
        ):
            node.sender(pacs.destination(tls=tls(own, authority))).send(stored)


def test_a_peer_of_old_versions_only_gets_nothing(node, stored, authority, own):
    """TLS 1.1 at most, as openssl can still be told to speak."""
    pacs, issued = Pacs(free_port()), authority.issue("pacs", kind="rsa")
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{pacs.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
    process = subprocess.Popen(
        [*command, "-cert", str(issued.certificate), "-key", str(issued.key), "-quiet"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with pytest.raises(Unreachable):
            node.sender(pacs.destination(tls=tls(own, authority))).send(stored)
    finally:
        process.kill()
        process.wait(20)
