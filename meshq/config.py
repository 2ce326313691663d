"""The configuration: every setting, its default, and where a value may come from.

A later source wins: the defaults here, then a TOML file, then the classic names (`classic.py`), then `MESHQ_*` in
the environment, then the command line. Names are checked in all of them, and a misspelt one is answered with the
nearest that exists.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from meshq.classic import Classic
from meshq.errors import ConfigError

Seconds = Annotated[float, Meta(gt=0, le=30 * 86400)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
# A value has to pass between nodes in one frame, of limits.FRAME_BYTES_MAX at most.
Bytes = Annotated[int, Meta(ge=1024, le=48 << 20)]

ENV_PREFIX = "MESHQ_"
# Read by the command line or by tasks, and no setting of the daemon.
ENV_OTHER = frozenset({"MESHQ_DATA_DIR", "MESHQ_CONFIG", "MESHQ_CONNECT_TIMEOUT", "MESHQ_TO", "MESHQ_CREDENTIAL"})


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one daemon. Durations are seconds, sizes bytes; `configs/` gives the reason for each number.

    `key_from` is no setting: it says where the key was given, an option, a variable or a file.
    """

    cluster: Annotated[str, Meta(min_length=1, max_length=64)] = "meshq"
    key: Annotated[str, Meta(max_length=200)] = ""
    insecure: bool = False
    name: Annotated[str, Meta(max_length=64)] = ""
    host: str = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 7373
    seeds: tuple[str, ...] = ()
    mdns: bool = True
    slots: Annotated[int, Meta(ge=-1, le=1024)] = -1
    replica: Literal["auto", "never"] = "auto"
    tasks: tuple[str, ...] = ()
    allow: tuple[Annotated[str, Meta(min_length=1, max_length=400)], ...] = ()
    child_env: tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...] = ()
    log_format: Literal["text", "json"] = "text"

    heartbeat_s: Seconds = 0.5
    lease_s: Seconds = 2.5
    lease_margin: Annotated[float, Meta(gt=0, lt=1)] = 0.7
    stand_step_s: Seconds = 0.4
    alive_s: Seconds = 2.0
    replicas: Annotated[int, Meta(ge=1, le=9)] = 5
    without_majority: Literal["survive", "stop"] = "survive"
    split_after_s: Seconds = 6.0
    cold_after_s: Seconds = 30.0
    handover_after_s: Seconds = 30.0
    replace_after_s: Seconds = 600.0
    found_wait_s: Seconds = 3.0
    seed_wait_s: Seconds = 30.0
    pull_wait_s: Seconds = 1.0

    claim_s: Seconds = 120.0
    dead_after_s: Seconds = 10.0
    worker_heartbeat_s: Seconds = 1.0
    get_wait_s: Seconds = 20.0
    claim_ahead_s: Seconds = 0.1
    drain_s: Seconds = 10.0
    crashes_max: Count = 3
    losses_max: Count = 5
    cache_ttl_s: Seconds = 7 * 86400.0
    keep_finished_s: Seconds = 7 * 86400.0
    keep_tombstones_s: Seconds = 30 * 86400.0
    priority_step_s: Seconds = 60.0
    bad_machine_crashes: Count = 3
    bad_machine_pause_s: Seconds = 600.0

    body_bytes_max: Bytes = 16 << 20
    result_bytes_max: Bytes = 8 << 20
    inline_bytes_max: Annotated[int, Meta(ge=0, le=1 << 20)] = 1024
    queue_tasks_max: Count = 5_000_000
    credential_tasks_max: Count = 10_000
    child_memory_bytes_max: Annotated[int, Meta(ge=0, le=1 << 50)] = 0
    child_output_bytes_max: Annotated[int, Meta(ge=0, le=1 << 40)] = 1 << 20
    logs_bytes_max: Annotated[int, Meta(ge=0, le=1 << 50)] = 256 << 20
    primes_max_limit: Annotated[int, Meta(ge=2, le=10_000_000_000)] = 100_000_000

    key_from: str = ""

    def __repr__(self) -> str:
        # The key is for nobody who reads a log or a traceback.
        shown = (f"{field}={getattr(self, field)!r}" for field in FIELDS if field != "key")
        return f"Config({', '.join(shown)})"

    @property
    def slots_used(self) -> int:
        """How many tasks run here at once: the setting, or one for each processor where it is -1."""
        return self.slots if self.slots >= 0 else (os.cpu_count() or 1)


FIELDS = tuple(field for field in Config.__struct_fields__ if field != "key_from")
# In the environment their entries are divided by commas or blanks.
LISTS = ("seeds", "tasks", "allow", "child_env")
# Python and what meshq's own tasks import take about half of it.
CHILD_MEMORY_BYTES_MIN = 128 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """A configuration, and where it came from.

    Args:
        config: The settings.
        sources: Where each of those was set that has not its default: a file, a variable, an option.
        classic: The variables of classic names that count.
    """

    config: Config
    sources: Mapping[str, str]
    classic: tuple[Classic, ...] = ()


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration out of a file, the environment and the command line, checked; as `trace`."""
    return trace(path, environ, overrides).config


def trace(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    classic: Collection[Classic] = (),
) -> Origin:
    """The configuration out of all its sources, checked, and where each value came from.

    Args:
        path: A TOML file; None for no file.
        environ: The environment; None for none.
        overrides: Values by setting; those that are None count as not given.
        classic: Variables of classic names, which win over the file only.

    Raises:
        ConfigError: An unknown name, a value out of range or of the wrong type, or a file that can't be read.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    # What came as text, so that "7373" may be a number.
    texts: set[str] = set()
    if path is not None:
        for key, value in _read(path).items():
            _known(key, FIELDS, f"in {path}")
            values[key], sources[key] = value, str(path)
    for one in classic:
        values[one.setting], sources[one.setting] = one.value, one.source
        texts.add(one.setting)
    for variable in check_names(environ or {}):
        key = variable.removeprefix(ENV_PREFIX).lower()
        values[key], sources[key] = _from_text(key, (environ or {})[variable]), variable
        texts.add(key)
    for key, value in (overrides or {}).items():
        if value is not None:
            values[key], sources[key] = value, "--" + key.replace("_", "-")
            texts.discard(key)
    counts = tuple(one for one in classic if sources[one.setting] == one.source)
    return Origin(_checked(values, sources, texts), sources, counts)


def check_names(environ: Mapping[str, str]) -> list[str]:
    """The variables of the environment that are settings.

    Raises:
        ConfigError: One begins like ours and is none.
    """
    ours = [variable for variable in environ if variable.startswith(ENV_PREFIX) and variable not in ENV_OTHER]
    names = [ENV_PREFIX + field.upper() for field in FIELDS]
    for variable in ours:
        _known(variable, [*names, *sorted(ENV_OTHER)], "in the environment")
    return ours


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of more digits than Python reads
        raise ConfigError(f"{path}: is no TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply for a configuration") from error


def _known(key: str, names: tuple[str, ...] | list[str], where: str) -> None:
    if key in names:
        return
    near = difflib.get_close_matches(key, names, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
    raise ConfigError(f"unknown setting {key} {where}{hint}")


def _from_text(key: str, text: str) -> Any:
    if key in LISTS:
        return tuple(part for part in re.split(r"[,\s]+", text) if part)
    return text


def _checked(values: dict[str, Any], sources: dict[str, str], texts: Collection[str]) -> Config:
    for key, value in values.items():
        # One at a time, so that the error names the setting and where it was set.
        try:
            msgspec.convert({key: value}, Config, strict=key not in texts)
        except msgspec.ValidationError as error:
            choices = get_args(get_type_hints(Config)[key]) if "enum" in str(error) else ()
            text = f"must be {' or '.join(choices)}" if choices else str(error).split(" - at ")[0].rstrip(".")
            # Errors are pasted into mails.
            shown = "…" if key == "key" else repr(value)
            raise ConfigError(f"{sources[key]}: {key} = {shown}: {text[:1].lower()}{text[1:]}") from error
    source = {"key_from": sources["key"]} if values.get("key") else {}
    config = msgspec.convert(values | source, Config, strict=False)
    for key in ("cluster", "name"):
        # They stand in logs and tables, on one line.
        if not getattr(config, key).isprintable():
            raise ConfigError(f"{sources[key]}: {key} = {values[key]!r}: must be printable, on one line")
    if 0 < config.child_memory_bytes_max < CHILD_MEMORY_BYTES_MIN:
        raise ConfigError(
            f"{sources['child_memory_bytes_max']}: child_memory_bytes_max = {config.child_memory_bytes_max}: must be "
            f"at least {CHILD_MEMORY_BYTES_MIN}, since with less no task can be loaded, or 0 for any amount"
        )
    for name in config.child_env:
        if name.upper().startswith(ENV_PREFIX):
            raise ConfigError(
                f"{sources['child_env']}: child_env = {name!r}: no setting of meshq is handed to tasks; the key is one"
            )
    if config.heartbeat_s * 2 > config.lease_s * config.lease_margin:
        raise ConfigError(
            f"heartbeat_s = {config.heartbeat_s} is too long for lease_s = {config.lease_s}: "
            f"at most {config.lease_s * config.lease_margin / 2:.2f}, so that one lost message ends no lease"
        )
    return config
