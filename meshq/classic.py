"""The names that settings of simple dispatchers have always had: understood, and answered with those of meshq."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meshq.errors import ConfigError

DOTENV = ".env"
# What each became. Nothing is polled here: a request for work stays open, for as long as a poll's interval says.
SETTINGS = {
    "DISPATCHER_PORT": "port",
    "WORKER_POLL_INTERVAL": "get_wait_s",
    "WORKER_HEARTBEAT_INTERVAL": "worker_heartbeat_s",
    "CACHE_TTL_SECONDS": "cache_ttl_s",
    "PRIMES_MAX_LIMIT": "primes_max_limit",
}


@dataclass(frozen=True, slots=True)
class Classic:
    """A classic variable that is set.

    Args:
        variable: Its name.
        value: Its text.
        where: The file in which it stands; empty for the environment.
    """

    variable: str
    value: str
    where: str = ""

    @property
    def setting(self) -> str:
        """The setting that it is."""
        return SETTINGS[self.variable]

    @property
    def source(self) -> str:
        """Where it was set, for people."""
        return f"{self.variable} in {self.where}" if self.where else self.variable


def find(environ: Mapping[str, str], dotenv: Path | None = None) -> tuple[Classic, ...]:
    """The classic variables that are set; the environment's win over those of the file.

    Args:
        environ: The environment.
        dotenv: A file of lines such as `NAME=value`, of which only those names count; None, or one that isn't there:
            no file.

    Raises:
        ConfigError: The file can't be read.
    """
    found = {one.variable: one for one in _in_file(dotenv)} if dotenv is not None else {}
    found |= {name: Classic(name, environ[name]) for name in SETTINGS if name in environ}
    return tuple(found[name] for name in SETTINGS if name in found)


def _in_file(path: Path) -> list[Classic]:
    try:
        text = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    found = []
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.strip() in SETTINGS:
            found.append(Classic(name.strip(), _value(value.strip()), str(path)))
    return found


def _value(text: str) -> str:
    """What a shell would make of it: quotes hold it together, and a comment ends it."""
    if text[:1] in ("'", '"'):
        return text[1:].partition(text[0])[0]
    return text.partition(" #")[0].strip()
