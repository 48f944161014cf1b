"""node.toml as typed, frozen values. Each field carries its reason; the README's table is held to them by a test.

An unknown key or a bad value is a `SettingsError` that names file, key and what was expected. The environment
overrides single keys, ``CXR_NODE__RECEIVE__PORT=11113``, and the two lists as a whole,
``CXR_NODE__DESTINATION='[{name="pacs", …}]'`` (TOML or JSON). Secrets never stand in the file.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cxr_node.errors import SettingsError

ENVIRONMENT_PREFIX = "CXR_NODE__"

AeTitle = Annotated[str, Field(pattern=r"^[\x20-\x5b\x5d-\x7e]{0,15}[\x21-\x5b\x5d-\x7e]$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Section):
    """DICOM TLS (PS3.15 B.12). Paths to PEM files; all empty means no TLS."""

    certificate: str = Field("", description="PEM file with this side's certificate chain")
    key: str = Field("", description="PEM file with its private key")
    ca: str = Field("", description="PEM file with the certificates that may have signed the other side's")
    require_client_certificate: bool = Field(
        True, description="refuse a caller that shows no certificate (receive only)"
    )

    @property
    def enabled(self) -> bool:
        return bool(self.certificate or self.ca)


class Node(_Section):
    profile: Literal["triage", "research"] = Field(
        "triage",
        description="`triage`: strict intended use; `research`: also Secondary Capture and Patient Position as view",
    )
    data_dir: str = Field("var", description="where everything that must survive a restart lies; relative to node.toml")
    database: str = Field("", description="SQLAlchemy URL, e.g. `postgresql+psycopg://…`; empty: SQLite in `data_dir`")
    instances: str = Field("", description="folder of received instances; empty: `data_dir/instances`")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log event written"
    )
    station_name: str = Field("cxr-node", max_length=16, description="name of this installation in result objects")


class Receive(_Section):
    ae_title: AeTitle = Field("CXR_NODE", description="called AE title of the node")
    host: str = Field("127.0.0.1", description="address the C-STORE SCP listens on; `0.0.0.0` for every interface")
    port: Port = Field(11112, description="its port")
    processes: int = Field(1, ge=1, le=64, description="acceptor processes that share the port")
    maximum_associations: int = Field(
        64, ge=1, description="open associations per process; more are refused as `local-limit-exceeded`"
    )
    per_caller_associations: int = Field(16, ge=1, description="open associations of one calling AE title per process")
    quiet_period_s: Seconds = Field(
        1.0, description="a study is analysed this long after its last image, or as soon as its association closes"
    )
    min_free_gb: float = Field(
        2.0, ge=0, description="below this free space C-STORE is answered 0xA700 Out of Resources"
    )
    transport: Literal["stream", "stock"] = Field(
        "stream", description="`stock` uses pynetdicom's public interface only, slower"
    )
    idle_timeout_s: float = Field(60.0, gt=0, description="an association without a message this long is aborted")
    tls: Tls = Field(default_factory=Tls, description="DICOM TLS of the listener")


class Caller(_Section):
    ae_title: str = Field("*", min_length=1, max_length=16, description="calling AE title that may send; `*` for any")
    hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "::1"), description="addresses or networks (CIDR) it may come from; `*` for any"
    )


class Analyze(_Section):
    workers: int | Literal["auto"] = Field("auto", description="worker processes; `auto`: one per GPU, else one")
    batch_size: int = Field(8, ge=1, le=256, description="most studies taken in one claim")
    models: tuple[str, ...] = Field(("pneumonia-adult", "pneumonia-paediatric"), description="model packages that run")
    shadow: tuple[str, ...] = Field((), description="packages that run and are stored but never reported")


class Destination(_Section):
    name: Name = Field(description="name in the log, on the worklist and in deliveries")
    kind: Literal["c-store", "folder"] = Field("c-store", description="how objects get there")
    ae_title: str = Field("", max_length=16, description="called AE title (`c-store`)")
    host: str = Field("", description="address (`c-store`)")
    port: Port = Field(104, description="port (`c-store`)")
    path: str = Field("", description="folder the files are written to (`folder`)")
    objects: tuple[Literal["sr"], ...] = Field(("sr",), description="result objects sent there")
    settle_s: Seconds = Field(
        5.0, description="wait this long after a study's last image, so that one report covers it"
    )
    max_attempts: int = Field(500, ge=1, description="tries before a delivery is given up and shown as failed")
    timeout_s: float = Field(30.0, gt=0, description="longest wait for connection, association and answer each")
    tls: Tls = Field(default_factory=Tls, description="DICOM TLS towards it")

    @model_validator(mode="after")
    def _address(self) -> "Destination":
        if self.kind == "c-store" and not (self.ae_title.strip() and self.host):
            raise ValueError("a c-store destination needs ae_title and host")
        if self.kind == "folder" and not self.path:
            raise ValueError("a folder destination needs path")
        return self


class Worklist(_Section):
    host: str = Field("127.0.0.1", description="address of the web page and API")
    port: Port = Field(8042, description="their port")
    dicom_host: str = Field("127.0.0.1", description="address of the UPS and Modality Worklist SCP")
    dicom_ae_title: AeTitle = Field("CXR_WORKLIST", description="its AE title")
    dicom_port: Port = Field(11113, description="its port")
    require_token: Literal["auto", "always", "never"] = Field(
        "auto", description="API and page ask for a token; `auto`: unless `host` is a loopback address"
    )
    viewer_url: str = Field("", description="link to the site's viewer; `{study_instance_uid}` is filled in")
    max_wait_min: float = Field(
        120.0,
        gt=0,
        description="longest wait of a study not flagged; past it, it moves to the top, in turn with urgent ones",
    )
    retain_h: float = Field(72.0, gt=0, description="hours a study stays on the list after its last image")
    time_zone: str = Field("UTC", description="IANA zone of the times on the page")


class Upkeep(_Section):
    retention_days: float = Field(
        30.0, ge=0, description="instances of a finished study are deleted after this; 0 keeps them"
    )
    self_test_min: float = Field(60.0, gt=0, description="minutes between runs of the golden images")
    sweep_s: float = Field(
        15.0, gt=0, description="seconds between sweeps of expired leases and abandoned temporary files"
    )


class Settings(_Section):
    """The whole of node.toml."""

    node: Node = Field(default_factory=Node)
    receive: Receive = Field(default_factory=Receive)
    caller: tuple[Caller, ...] = Field((Caller(),))
    analyze: Analyze = Field(default_factory=Analyze)
    destination: tuple[Destination, ...] = Field(())
    worklist: Worklist = Field(default_factory=Worklist)
    upkeep: Upkeep = Field(default_factory=Upkeep)

    base_dir: str = Field(
        "", exclude=True, description="not a key: the folder of node.toml, against which paths resolve"
    )

    @field_validator("destination")
    @classmethod
    def _names_are_unique(cls, value: tuple[Destination, ...]) -> tuple[Destination, ...]:
        names = [destination.name for destination in value]
        if len(set(names)) != len(names):
            raise ValueError(f"destination names must differ, found {names}")
        return value

    def path(self, value: str) -> Path:
        """Resolve a path of the file against the file's folder."""
        return (Path(self.base_dir or ".") / Path(value).expanduser()).resolve()

    @property
    def data_dir(self) -> Path:
        return self.path(self.node.data_dir)

    @property
    def instances_dir(self) -> Path:
        return self.path(self.node.instances) if self.node.instances else self.data_dir / "instances"

    @property
    def database_url(self) -> str:
        return self.node.database or f"sqlite:///{self.data_dir / 'cxr-node.db'}"


def load_settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read node.toml, or the defaults where `path` is None, and let the environment override.

    Raises
    ------
    SettingsError
        Names the file or variable, the key, what was found and what was expected.
    """
    values: dict[str, Any] = {}
    source = "built-in defaults"
    if path is not None:
        source = str(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: is not valid TOML: {error}") from error
    if "base_dir" in values:
        raise SettingsError(f"{source}: base_dir: unknown key")
    _override(values, environment)
    values["base_dir"] = str(path.resolve().parent) if path is not None else str(Path.cwd())
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_sentence(source, item) for item in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def _override(values: dict[str, Any], environment: Mapping[str, str]) -> None:
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if keys in (["destination"], ["caller"]):
            values[keys[0]] = _literal(environment[variable])
            continue
        if len(keys) < 2 or not isinstance(values.setdefault(keys[0], {}), dict):
            raise SettingsError(
                f"environment variable {variable}: expected {ENVIRONMENT_PREFIX}SECTION__KEY of a single section"
            )
        target = values[keys[0]]
        for key in keys[1:-1]:
            target = target.setdefault(key, {})
        target[keys[-1]] = _literal(environment[variable])


def _literal(text: str) -> Any:
    """A TOML or JSON value where the text is one (numbers, true, lists), otherwise the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _sentence(source: str, item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(file)"
    if item["type"] == "extra_forbidden":
        return f"{source}: {key}: unknown key"
    found = item.get("input")
    shown = "" if isinstance(found, dict) or item["type"] == "missing" else f", found {found!r}"
    return f"{source}: {key}: {item['msg']}{shown}"
