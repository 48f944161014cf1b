"""`cxr-node config check`: is the file sound, and what does it make of this machine."""

import argparse

from cxr_node.cli import closed
from cxr_node.cli.destination import address_of
from cxr_node.deliver.hl7_template import load_template
from cxr_node.errors import SettingsError
from cxr_node.inference import find_package, package_folders
from cxr_node.settings import Settings
from cxr_node.worklist.web.access import check_openness


def check(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print what the node would do; an unsound file ended before this with its error.

    Raises
    ------
    PackageError
        A model named in the file is missing or altered.
    SettingsError
        An HL7 template or a TLS file cannot be used, or the worklist would be open to other machines.
    """
    check_openness(settings.worklist)
    told = closed.tls(settings)
    _check_provider(settings)
    print(f"{arguments.config or 'built-in defaults'}: valid")
    print(f"profile       {settings.node.profile}")
    print(f"data          {settings.data_dir}")
    print(f"TLS           {told}")
    receive = settings.receive
    print(
        f"receives as   {receive.ae_title} on {receive.host}:{receive.port}{' with TLS' if receive.tls.enabled else ''}"
    )
    for caller in settings.caller:
        shows = f" with certificate {caller.certificate}" if caller.certificate else ""
        print(f"  caller      {caller.ae_title} from {', '.join(caller.hosts)}{shows}")
    for name in (*settings.analyze.models, *settings.analyze.shadow):
        package = find_package(name, package_folders(settings.data_dir))
        shadow = " (shadow: never reported)" if name in settings.analyze.shadow else ""
        print(f"model         {name} {package.manifest.version}, {package.digest[:12]}{shadow}")
    for destination in settings.destination:
        print(f"destination   {destination.name}: {destination.kind} {address_of(destination)}")
        if destination.kind == "hl7-oru":
            template = load_template(settings.path(destination.template) if destination.template else None)
            dry = ", dry run: nothing is sent" if destination.dry_run else ""
            print(f"  template    {template.source}: {template.message_type}, {template.when}{dry}")
    if not settings.destination:
        print("destination   none: results stay on the worklist; add a [[destination]] to send the SR to a PACS")
    worklist = settings.worklist
    provider = f", or at {worklist.oidc.issuer}" if worklist.oidc.issuer else ""
    reading = "; anybody on this machine reads" if worklist.require_token == "never" else ""
    print(f"sign-in       with a password of this node{provider}{reading}")
    print(f"worklist      {closed.web_url(settings, worklist.host)}/")
    print(
        f"              {worklist.dicom_ae_title} on {worklist.dicom_host}:{worklist.dicom_port} "
        "(UPS and Modality Worklist)"
    )
    return 0


def _check_provider(settings: Settings) -> None:
    oidc = settings.worklist.oidc
    if not oidc.issuer:
        return
    if oidc.client_secret_file and not settings.path(oidc.client_secret_file).is_file():
        raise SettingsError(f"worklist.oidc.client_secret_file: there is no file {oidc.client_secret_file}")
    if not (oidc.admin or oidc.auditor or oidc.reader):
        raise SettingsError(
            "worklist.oidc: nobody would have a role; name values of role_claim as admin, auditor or reader"
        )
