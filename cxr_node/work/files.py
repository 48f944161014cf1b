"""Where node.toml says that bytes lie; every stage opens them here."""

from pathlib import Path

from cxr_node.settings import Settings
from storage.files import InstanceFiles, open_files
from storage.object_store import SCHEME


def instance_files(settings: Settings) -> InstanceFiles:
    """Open the instances and result objects.

    Raises
    ------
    StorageError
        The folder cannot be made, or the key file is not what it must be.
    """
    node = settings.node
    key_file = settings.path(node.encryption_key_file) if node.encryption_key_file else None
    return open_files(settings.data_dir, node.instances, settings.instances_dir, key_file)


def spool_dir(settings: Settings) -> Path:
    """Return the folder of this host whose space bounds what it can receive."""
    return settings.data_dir if settings.node.instances.startswith(SCHEME) else settings.instances_dir
