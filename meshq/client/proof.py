"""How a client proves itself to a daemon elsewhere: by the cluster's key, or by a credential."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meshq.core import keys
from meshq.errors import BadKey, ConfigError
from meshq.store import keyfile
from meshq.wire import security
from meshq.wire.security import HOLDER, Passport

KEY_VARIABLE: Final = "MESHQ_KEY"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a client shows.

    Args:
        source: What it is, in messages.
        credential: The credential's name; None where it is a key.
        issuers: Who issued the certificates that it believes.
        contexts: One for each of its keys, in the order in which they are tried.
    """

    source: str
    credential: str | None
    issuers: frozenset[str]
    contexts: tuple[ssl.SSLContext, ...] = field(repr=False)


def find(data_dir: Path, *, key: str | None, credential: str | None) -> Proof:
    """What a client proves itself with: what it was given, else the key in `MESHQ_KEY`, else that of a data directory.

    Args:
        data_dir: Where a key may be kept.
        key: A cluster's key, as people type it.
        credential: A credential's text.

    Raises:
        BadKey: What was given is none.
        ConfigError: There is nothing, or both.
        StoreError: The file with the key can't be read; with its path.
    """
    if key is not None and credential is not None:
        raise ConfigError("a key and a credential are given; one of them is enough")
    if credential is not None:
        return _of_credential(credential)
    if key is not None:
        return _of_keys([_read(key)], "the key that was given")
    if text := os.environ.get(KEY_VARIABLE):
        return _of_keys([_read(text, f"{KEY_VARIABLE}: ")], f"the key in {KEY_VARIABLE}")
    if held := keyfile.read(data_dir).keys:
        return _of_keys(held, f"the key in {data_dir / keyfile.KEY_FILE}")
    raise ConfigError(
        f"there is no key in {data_dir}: set {KEY_VARIABLE} to what meshq key show prints on a machine of the cluster, "
        "or give a credential: --credential FILE"
    )


def _read(text: str, where: str = "") -> keys.Key:
    if text.lstrip().startswith(security.CREDENTIAL_PREFIX):
        raise BadKey(f"{where}this is a credential, and no key; give it with --credential FILE")
    try:
        return keys.parse(text)
    except BadKey as error:
        raise BadKey(where + error.message) from error


def _of_keys(held: Sequence[keys.Key], source: str) -> Proof:
    own = security.passports(held, HOLDER)
    return Proof(source, None, _issuers(own[0]), tuple(map(security.client_context, own)))


def _of_credential(text: str) -> Proof:
    found = security.read_credential(text)
    try:
        context = security.client_context(found.passport)
    except ssl.SSLError as error:
        raise BadKey(f"the credential {found.name} can't be used: {error.reason or error}") from error
    return Proof(f"the credential {found.name}", found.name, _issuers(found.passport), (context,))


def _issuers(own: Passport) -> frozenset[str]:
    return frozenset(each.subject.rfc4514_string() for each in own.trusted)
