"""The installation a run belongs to: the base its engines serve, their limits, and where versions are registered.

Read from understudy.toml, of which only these parts concern the trainer; the rest is the gateway's to check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from adapters.artifacts import ArtifactStore
from adapters.database import Database, open_database
from adapters.errors import ConfigError
from adapters.registry import Registry
from adapters.settings import NO_CONFIGURATION, ArtifactSettings, DatabaseSettings, load

DEFAULT_FILE = Path("understudy.toml")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
WILDCARDS: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses to listen on, not to call


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ServingEngine(_Part):
    """What `[engine]` says about the weights that serve."""

    base_model: str = "demo"
    served_name: str = "base"
    quantization: str = ""
    max_lora_rank: int = Field(16, ge=1)
    max_model_len: int = Field(0, ge=0)


class ControlPlane(_Part):
    """Where `[control]` listens."""

    host: str = "127.0.0.1"
    port: int = 8081
    operator_token: str = ""


class DataPlane(_Part):
    """Where `[gateway]` listens."""

    host: str = "127.0.0.1"
    port: int = 8080
    require_keys: bool = False
    tls_cert: str = ""


class Installation(_Part):
    """The parts of understudy.toml that training and evaluation need; `data_dir` is absolute."""

    data_dir: Path = Path(".understudy")
    database: DatabaseSettings = DatabaseSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    engine: ServingEngine = ServingEngine()
    control: ControlPlane = ControlPlane()
    gateway: DataPlane = DataPlane()

    @property
    def gateway_url(self) -> str:
        """Where this machine reaches the data plane."""
        return _url(self.gateway.host, self.gateway.port, "https" if self.gateway.tls_cert else "http")

    @property
    def control_url(self) -> str:
        """Where this machine reaches the operator API."""
        return _url(self.control.host, self.control.port)

    @property
    def keys_required(self) -> bool:
        """True when the data plane wants a key: by wish, or because it listens beyond loopback."""
        return self.gateway.require_keys or self.gateway.host not in LOOPBACK

    def operator_token(self) -> str:
        """The operator API's token. Raises ConfigError while no controller has made one."""
        if self.control.operator_token:
            return self.control.operator_token
        path = self.data_dir / "operator.token"
        try:
            return path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{path} cannot be read: start the controller, which makes it") from None


def _url(host: str, port: int, scheme: str = "http") -> str:
    host = WILDCARDS.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def load_installation(path: Path | None = None) -> Installation:
    """Read `path`, or ./understudy.toml where it exists, or the defaults. Raises ConfigError."""
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    found = load(Installation, path, advice=NO_CONFIGURATION)
    root = path.resolve().parent if path else Path.cwd()
    return found.model_copy(update={"data_dir": root / found.data_dir})


@contextmanager
def open_database_of(installation: Installation) -> Iterator[Database]:
    """Its database, open. Raises ConfigError, DatabaseError."""
    try:
        installation.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data_dir {installation.data_dir} cannot be created: {error.strerror}") from None
    database = open_database(installation.database, installation.data_dir)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def open_registry(installation: Installation) -> Iterator[Registry]:
    """Its registry of versions, open. Raises ConfigError, DatabaseError."""
    with open_database_of(installation) as database:
        yield Registry(database, artifact_store(installation))


def artifact_store(installation: Installation) -> ArtifactStore:
    """Where its versions' files are. Raises ConfigError."""
    return ArtifactStore(installation.artifacts, installation.data_dir)
