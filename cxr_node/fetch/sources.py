"""Sources by kind."""

from functools import partial
from pathlib import Path

from cxr_node.errors import SettingsError
from cxr_node.fetch.dicomweb import WebSource
from cxr_node.fetch.dimse import DimseSource
from cxr_node.fetch.own import pass_on
from cxr_node.fetch.query import Source
from cxr_node.settings import Settings
from cxr_node.settings import Source as SourceSettings
from cxr_node.work.files import instance_files


def make_source(name: str, settings: Settings) -> Source:
    """Return the source of that name.

    Raises
    ------
    SettingsError
        node.toml has none of that name, or its secret cannot be read.
    """
    found = [source for source in settings.source if source.name == name]
    if not found:
        known = ", ".join(source.name for source in settings.source) or "none"
        raise SettingsError(f"--from: node.toml has no [[source]] {name!r}; it has: {known}")
    source = found[0]
    files = {"certificate": source.tls.certificate, "key": source.tls.key, "ca": source.tls.ca}
    tls_files = {key: settings.path(value) for key, value in files.items() if value}
    if source.kind == "dimse":
        receive = settings.receive
        return DimseSource(
            source,
            own_ae_title=receive.ae_title,
            own_port=receive.port,
            tls_files=tls_files,
            tls_minimum=settings.node.tls_minimum,
        )
    return WebSource(
        source,
        new_path=instance_files(settings).new_temporary,
        pass_on=partial(pass_on, settings=settings),
        secret=_secret(source, settings.path(source.secret_file)) if source.secret_file else "",
        tls_files=tls_files,
        tls_minimum=settings.node.tls_minimum,
    )


def _secret(source: SourceSettings, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise SettingsError(f"source {source.name}: secret_file {path} cannot be read: {why}") from error
