"""Settings of one node: defaults, then `config.toml`, then the environment, then flags; the last one wins.

Every key is one word, in the file as it stands, in the environment as `ROSEFOREST_` and the key in capitals
(lists separated by commas), on the command line as `--key`. Where each value came from is kept, because the
first question about a wrong setting is who set it. An unknown key or a bad value is refused with one line
that names where it stands, the key and the reason: a typo must not become a default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from node.embedding.external import KEY_VARIABLE, EmbedderSettings
from node.errors import ConfigError
from node.home import HOME_VARIABLE, PASSPHRASE_VARIABLE, Home, write_atomically
from node.trust_root import DEFAULT_ROOTS, MAX_ROOTS, read_root

PREFIX = "ROSEFOREST_"
NOT_SETTINGS = frozenset(
    {HOME_VARIABLE, "ROSEFOREST_DEBUG", PASSPHRASE_VARIABLE, "ROSEFOREST_NEW_PASSPHRASE", KEY_VARIABLE}
)
"""Variables with the prefix that are no settings."""
SECTIONS = ("embedder", "exchange", "mcp", "store", "trust")
"""The keys that begin with one of these words may stand without it in a section of this name."""
MAX_CONFIG_FILE = 256 * 1024
MAX_ADDRESSES = 64
MAX_CAPACITY = 1_000_000
DEFAULT_CAPACITY = 100

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
LOG_LEVELS: tuple[str, ...] = get_args(LogLevel)
LOG_FORMATS: tuple[str, ...] = get_args(LogFormat)
LOG_PARTS = ("chain", "crdt", "sharding", "validation", "dht", "federated", "node", "sim")


class Settings(BaseModel):
    """What a node may be told; each field's description is its documentation.

    `origins` says for every key where its value came from: `default`, `file PATH`, `environment NAME` or
    `flag --NAME`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    listen: Annotated[
        tuple[str, ...],
        Field(
            min_length=1, max_length=MAX_ADDRESSES, description="multiaddrs to listen on; tcp/0 picks a port"
        ),
    ] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: Annotated[
        tuple[str, ...],
        Field(max_length=MAX_ADDRESSES, description="multiaddrs with /p2p/ of peers to join through"),
    ] = ()
    api: Annotated[str, Field(description="HOST:PORT of the HTTP API; port 0 picks one")] = "127.0.0.1:0"
    api_hosts: Annotated[
        tuple[str, ...],
        Field(max_length=MAX_ADDRESSES, description="names besides localhost that requests may give as Host"),
    ] = ()
    exchange_listen: Annotated[
        str | None,
        Field(description="HOST:PORT of the exchange API for systems of other makers; none: off"),
    ] = None
    exchange_public_read: Annotated[
        bool, Field(description="whether the exchange lets anybody read, without a key")
    ] = False
    capacity: Annotated[
        int,
        Field(
            ge=0, le=MAX_CAPACITY, description="share of the network's data to hold, relative to 100; 0: none"
        ),
    ] = DEFAULT_CAPACITY
    divide_shards: Annotated[
        bool,
        Field(description="propose and sign that full shards divide and thin ones are joined"),
    ] = True
    query_deadline_ms: Annotated[
        int, Field(ge=1, le=60_000, description="milliseconds after which a query answers with what it has")
    ] = 3_000
    query_cache_s: Annotated[
        float,
        Field(ge=0, le=3_600, description="seconds that answers are kept for the same question; 0: none"),
    ] = 10.0
    query_check_texts: Annotated[
        bool | None,
        Field(
            description="embed hits again where vectors are not validated; none: unless an endpoint has to"
        ),
    ] = None
    embedder_url: Annotated[
        str | None, Field(description="base address of an OpenAI-compatible endpoint that embeds texts")
    ] = None
    embedder_model: Annotated[
        str | None, Field(description="what to ask it for, or a model's folder; none: the space's own name")
    ] = None
    embedder_batch: Annotated[int, Field(ge=1, le=2048, description="texts in one call of the embedder")] = 64
    embedder_timeout_s: Annotated[
        float, Field(gt=0, le=600, description="seconds that one call of the embedder may take")
    ] = 30.0
    embedder_retries: Annotated[int, Field(ge=0, le=10, description="more tries when a call fails")] = 3
    mdns: Annotated[
        bool | None,
        Field(description="look for peers on the local network; none: when `listen` goes beyond loopback"),
    ] = None
    blobs_max_mb: Annotated[
        int, Field(ge=1, le=1 << 20, description="MiB of disk for blobs such as model parameters")
    ] = 2_048
    blob_max_mb: Annotated[
        int, Field(ge=1, le=1_024, description="MiB of the largest blob that the HTTP API takes or fetches")
    ] = 256
    store_max_gb: Annotated[
        float,
        Field(gt=0, le=1 << 20, description="GiB of disk for what is held for others; then the node is full"),
    ] = 10.0
    store_author_max_mb: Annotated[
        int, Field(ge=1, le=1 << 30, description="MiB of those that one author may take up")
    ] = 1_024
    trust_roots: Annotated[
        tuple[str, ...],
        Field(
            max_length=MAX_ROOTS,
            description="whose votes count in full: founder, stewards, self, agent ids; each maybe =WEIGHT",
        ),
    ] = DEFAULT_ROOTS
    leave_seconds: Annotated[
        int,
        Field(ge=0, le=600, description="seconds a stopping node may take to hand over its copies; 0: none"),
    ] = 10
    mcp_allow_writes: Annotated[
        bool, Field(description="let AI agents (roseforest mcp) add, edit, vote and cite in your name")
    ] = False
    mcp_allow_private: Annotated[
        bool, Field(description="show them your private entries; what they read may make them tell others")
    ] = False
    log_level: Annotated[LogLevel, Field(description="least severity that is logged")] = "info"
    log_parts: Annotated[
        tuple[str, ...],
        Field(max_length=MAX_ADDRESSES, description="PART=LEVEL for parts that say more or less"),
    ] = ()
    log_format: Annotated[LogFormat, Field(description="text: key=value pairs; json: one object a line")] = (
        "text"
    )
    log_file: Annotated[
        str | None, Field(description="rotating file for the log, relative to the home folder; none: stderr")
    ] = None
    origins: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)

    @field_validator("listen", "bootstrap")
    @classmethod
    def _multiaddrs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if not address.startswith("/") or any(char.isspace() for char in address) or "//" in address:
                raise ValueError(f"{address!r} is not a multiaddr such as /ip4/127.0.0.1/tcp/4001")
        return value

    @field_validator("bootstrap")
    @classmethod
    def _names_a_peer(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if "/p2p/" not in address:
                raise ValueError(
                    f"{address!r} does not say which peer it expects: it must end in /p2p/PEER-ID"
                )
        return value

    @field_validator("trust_roots")
    @classmethod
    def _roots(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            read_root(item)
        return value

    @field_validator("log_parts")
    @classmethod
    def _parts_and_levels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            part, separator, level = item.partition("=")
            known = part.split(".")[0] in LOG_PARTS and all(name.isidentifier() for name in part.split("."))
            if not separator or not known or level not in LOG_LEVELS:
                raise ValueError(
                    f"{item!r} is not PART=LEVEL such as dht.overlay.kademlia=debug; parts begin with one of "
                    f"{', '.join(LOG_PARTS)}, levels are {', '.join(LOG_LEVELS)}"
                )
        return value

    @field_validator("api", "exchange_listen")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None:
            split_api(value)
        return value

    def embedder(self, environment: Mapping[str, str] | None = None) -> EmbedderSettings:
        """How this node reaches the network's embedder; its key comes from the environment alone."""
        return EmbedderSettings(
            url=self.embedder_url,
            model=self.embedder_model,
            batch=self.embedder_batch,
            timeout_s=self.embedder_timeout_s,
            retries=self.embedder_retries,
            key=(os.environ if environment is None else environment).get(KEY_VARIABLE) or None,
        )

    @property
    def api_bind(self) -> tuple[str, int]:
        """Host and port of the API."""
        return split_api(self.api)


KEYS = tuple(name for name in Settings.model_fields if name != "origins")
_LISTS = frozenset({"listen", "bootstrap", "api_hosts", "log_parts", "trust_roots"})
_OPTIONAL = frozenset({"log_file", "mdns", "embedder_url", "embedder_model", "exchange_listen"})


def split_api(value: str) -> tuple[str, int]:
    """Read HOST:PORT, or [IPv6]:PORT; raises ValueError."""
    host, separator, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError(f"{value!r} is not HOST:PORT such as 127.0.0.1:7070")
    return host, int(port)


def load_settings(
    home: Home, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings in force; `flags` with the value None count as not given.

    `environment` defaults to the process's own. Raises `ConfigError` for the first thing that is wrong.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(KEYS, "default")
    where = dict.fromkeys(KEYS, "default")
    for key, value in _read_file(home).items():
        values[key], origins[key], where[key] = value, f"file {home.config}", f"{home.config}: {key}"
    variables = os.environ if environment is None else environment
    for name in sorted(variables):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        key = name.removeprefix(PREFIX).lower()
        if key not in KEYS:
            raise ConfigError(f"environment: {name} is not a setting; known are {_known()}")
        values[key], origins[key] = _from_text(key, variables[name]), f"environment {name}"
        where[key] = f"environment: {name}"
    for key, value in (flags or {}).items():
        if value is None or value == ():
            continue
        flag = f"--{key.replace('_', '-')}"
        values[key], origins[key], where[key] = value, f"flag {flag}", f"command line: {flag}"
    try:
        return Settings(**values, origins=origins)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = str(first["loc"][0]) if first["loc"] else "settings"
        raise ConfigError(f"{where.get(key, key)}: {_reason(first['msg'])}") from error


def with_origins(settings: Settings) -> dict[str, dict[str, Any]]:
    """Every setting as `{"value", "origin"}`, in the order of the documentation."""
    values = settings.model_dump(mode="json")
    return {key: {"value": values[key], "origin": settings.origins.get(key, "default")} for key in KEYS}


def write_initial_config(
    home: Home,
    listen: tuple[str, ...],
    api: str,
    bootstrap: tuple[str, ...],
    embedder: EmbedderSettings | None = None,
) -> None:
    """Write a first `config.toml`; an existing one is left as it is. Of `embedder`, url and model stay."""
    if home.config.exists():
        return
    lines = [
        "# Settings of this node; roseforest config show lists every key and where its value comes from.",
        "",
    ]
    lines += [
        f"listen = {_toml_list(listen)}",
        f"bootstrap = {_toml_list(bootstrap)}",
        f"api = {_toml_string(api)}",
    ]
    named = [] if embedder is None else [("url", embedder.url), ("model", embedder.model)]
    kept = [f"{key} = {_toml_string(value)}" for key, value in named if value is not None]
    if kept:
        lines += ["", "[embedder]", *kept]
    write_atomically(home.config, ("\n".join(lines) + "\n").encode())


def _read_file(home: Home) -> dict[str, Any]:
    path = home.config
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_CONFIG_FILE:
        raise ConfigError(f"{path} is longer than {MAX_CONFIG_FILE} bytes: it is no configuration")
    try:
        values = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} is not TOML: {_one_line(str(error))}; correct it or move it away"
        ) from error
    for name in SECTIONS:
        section = values.pop(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: {name} is a section: write its keys under [{name}]")
        if name == "embedder" and ("key" in section or "api_key" in section):
            raise ConfigError(
                f"{path}: an embedder's key does not belong into a file: put it into {KEY_VARIABLE}"
            )
        values |= {f"{name}_{key}": value for key, value in section.items()}
    unknown = [key for key in values if key not in KEYS]
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]} is not a setting; known are {_known()}")
    return values


def _from_text(key: str, text: str) -> Any:
    if key in _LISTS:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return None if key in _OPTIONAL and not text else text


def _known() -> str:
    return ", ".join(KEYS)


def _reason(message: str) -> str:
    return _one_line(message.removeprefix("Value error, "))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _toml_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _toml_list(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(_toml_string, values)) + "]"
