"""`cxr-node config check`: is the file sound, and what does it make of this machine."""

import argparse

from cxr_node.inference import find_package, package_folders
from cxr_node.settings import Settings


def check(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print what the node would do; an unsound file ended before this with its error.

    Raises
    ------
    PackageError
        A model named in the file is missing or altered.
    """
    print(f"{arguments.config or 'built-in defaults'}: valid")
    print(f"profile       {settings.node.profile}")
    print(f"data          {settings.data_dir}")
    receive = settings.receive
    print(
        f"receives as   {receive.ae_title} on {receive.host}:{receive.port}{' with TLS' if receive.tls.enabled else ''}"
    )
    for caller in settings.caller:
        print(f"  caller      {caller.ae_title} from {', '.join(caller.hosts)}")
    for name in (*settings.analyze.models, *settings.analyze.shadow):
        package = find_package(name, package_folders(settings.data_dir))
        shadow = " (shadow: never reported)" if name in settings.analyze.shadow else ""
        print(f"model         {name} {package.manifest.version}, {package.digest[:12]}{shadow}")
    for destination in settings.destination:
        where = destination.path or f"{destination.ae_title}@{destination.host}:{destination.port}"
        print(f"destination   {destination.name}: {destination.kind} {where}")
    if not settings.destination:
        print("destination   none: results stay on the worklist; add a [[destination]] to send the SR to a PACS")
    worklist = settings.worklist
    print(f"worklist      http://{worklist.host}:{worklist.port}/")
    print(
        f"              {worklist.dicom_ae_title} on {worklist.dicom_host}:{worklist.dicom_port} "
        "(UPS and Modality Worklist)"
    )
    return 0
