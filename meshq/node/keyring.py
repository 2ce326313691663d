"""The keys of this node: where they come from, how it proves itself with them, and how they are changed.

While a key is being changed, every node holds the old one, which it shows, and the next one, which it accepts as well.
Who has the next one offers it in each hello, and who has dropped the old one says so there: that is all that is needed
for a change to reach everybody who is up, or comes back in time, whoever leads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from meshq.config import Config
from meshq.core import ids, keys
from meshq.core.keys import Key
from meshq.errors import BadKey, ConfigError, Conflict
from meshq.node import journal
from meshq.store import files, keyfile
from meshq.store.keyfile import DROPPED_MAX, Held
from meshq.wire import security
from meshq.wire.security import Contexts

# Of a key; others' words are written into this node's file.
_NAME = re.compile("[0-9a-z]{8}")


class Keyring:
    """The keys of one daemon; none in a cluster that has none.

    Args:
        data_dir: Where they are kept.
        held: What is there.
        made: Whether the key was made just now.
        warning: What a person should know about the key that was given; empty if nothing.
    """

    def __init__(self, data_dir: Path, held: Held, *, made: bool = False, warning: str = "") -> None:
        self.held = held
        self.made = made
        self.warning = warning
        self.on_drop: Callable[[], None] = lambda: None  # whoever proved the old key has to prove the new one
        self._data_dir = data_dir
        self._contexts: tuple[str, tuple[Key, ...], Contexts] | None = None

    @property
    def secured(self) -> bool:
        """Whether this node talks only to those who prove that they hold the key."""
        return bool(self.held.keys)

    def names(self) -> tuple[str, ...]:
        """The names of the keys that it accepts."""
        return tuple(key.name for key in self.held.keys)

    def clusters(self, cluster: str) -> tuple[str, ...]:
        """What stands in announcements for a cluster of this name: what this node announces, and what it accepts."""
        if not self.secured:
            return (ids.cluster_hash(cluster),)
        return tuple(security.cluster_hash(key, cluster) for key in self.held.keys)

    def contexts(self, node: str) -> Contexts:
        """How this node proves itself at present."""
        known = self._contexts
        if known is None or known[:2] != (node, self.held.keys):
            known = self._contexts = (node, self.held.keys, security.contexts_of(self.held.keys, node))
        return known[2]

    # -- changing the key --------------------------------------------------------------------------------

    @property
    def offered(self) -> str:
        """The next key, while it is being changed; empty otherwise."""
        return self.held.keys[1].text if len(self.held.keys) > 1 else ""

    def rotate(self, made: Key) -> None:
        """Begins to change the key.

        Raises:
            Conflict: There is none, or it is being changed already.
            StoreError: It can't be written.
        """
        if not self.secured:
            raise Conflict("this cluster has no key: stop its machines, and start them without --insecure")
        if self.offered:
            raise Conflict("the key is being changed already: end that first, with: meshq key finish")
        self._keep(Held((*self.held.keys, made), self.held.dropped))

    def finish(self) -> None:
        """Drops the old key: from now on only the next one opens anything.

        Raises:
            Conflict: It is not being changed.
            StoreError: It can't be written.
        """
        if not self.offered:
            raise Conflict("the key is not being changed; begin with: meshq key rotate")
        old, *rest = self.held.keys
        self._keep(Held(tuple(rest), (*self.held.dropped, old.name)[-DROPPED_MAX:]))
        journal.tell("key_changed", f"the old key {old.name} is dropped; only the new one is accepted now")
        self.on_drop()

    def learn(self, offered: str, dropped: tuple[str, ...]) -> None:
        """What another node of this cluster says of a change.

        Raises:
            StoreError: It can't be written; the next hello says it again.
        """
        if offered and self.secured:
            self._accept(offered)
        if self.offered and self.held.keys[0].name in dropped:
            self.finish()
        if self.secured:
            self._remember(dropped)

    def _remember(self, dropped: tuple[str, ...]) -> None:
        """Keeps the names of keys that were dropped while this node slept: its unit may still give one of them."""
        known = (*self.held.dropped, *self.names())
        new = [name for name in dict.fromkeys(dropped[-DROPPED_MAX:]) if name not in known and _NAME.fullmatch(name)]
        # What this node saw itself comes last and stays; with a list that is full nothing changes.
        merged = (*new, *self.held.dropped)[-DROPPED_MAX:]
        if merged != self.held.dropped:
            self._keep(Held(self.held.keys, merged))

    def _accept(self, offered: str) -> None:
        try:
            key = keys.parse(offered)
        except BadKey:
            return  # of a later version, perhaps
        if key in self.held.keys or key.name in self.held.dropped:
            return
        shown, *rest = self.held.keys
        # Two that were made at the same time: all agree on one of them.
        if not rest or key.name < rest[0].name:
            self._keep(Held((shown, key), self.held.dropped))
            journal.tell("key_offered", f"the cluster's key is being changed: {key.name} is accepted, too")

    def _keep(self, held: Held) -> None:
        keyfile.write(self._data_dir, held)
        self.held = held


def take(config: Config, data_dir: Path, random_bits: Callable[[int], int]) -> Keyring:
    """The keys of the daemon with this data directory; one that was given is kept there, and one is made if need be.

    Args:
        config: May give a key, or say that there is to be none.
        data_dir: Is there.
        random_bits: That many random bits, out of a source that nobody can guess.

    Raises:
        BadKey: What was given is no key; with where that was.
        ConfigError: There is to be no key, and there is one.
        StoreError: The file can't be read or written; with the path.
    """
    held = keyfile.read(data_dir)
    if config.insecure:
        if config.key or held.keys:
            where = "a key is given" if config.key else f"{data_dir / keyfile.KEY_FILE} holds one"
            raise ConfigError(f"--insecure means that there is no key, but {where}: leave one of the two away")
        return Keyring(data_dir, held)
    if config.key:
        return _given(config, held, data_dir)
    if held.keys:
        return Keyring(data_dir, held)
    held = Held((make(random_bits),))
    keyfile.write(data_dir, held)
    return Keyring(data_dir, held, made=True)


def _given(config: Config, held: Held, data_dir: Path) -> Keyring:
    """The keys of a daemon that was given one; what a person may not expect stands in the warning."""
    path = data_dir / keyfile.KEY_FILE
    source = config.key_from or "the configuration"
    given = _parsed(config.key, source)
    if given in held.keys:
        return Keyring(data_dir, held)
    if given.name in held.dropped:
        # Out of a unit or an environment that somebody forgot: with it this machine would shut itself out.
        text = (
            f"{source} gives {given.name}, which was dropped when the cluster's key was changed: this machine goes on "
            f"with {held.keys[0].name}, the key in {path}. Take the old one out of {source}; if it is wanted all the "
            f"same, first delete the line `{keyfile.dropped_line(given.name)}` in {path}"
        )
        return Keyring(data_dir, held, warning=text)
    text = _told_replaced(source, given, held, data_dir) if held.keys else ""
    held = Held((given,), held.dropped)
    keyfile.write(data_dir, held)
    return Keyring(data_dir, held, warning=text)


def _parsed(text: str, source: str) -> Key:
    if text.lstrip().startswith(security.CREDENTIAL_PREFIX):
        raise BadKey(f"{source}: this is a credential, with which one submits tasks; a daemon needs the cluster's key")
    try:
        return keys.parse(text)
    except BadKey as error:
        raise BadKey(f"{source}: {error.message}") from error


def _told_replaced(source: str, given: Key, held: Held, data_dir: Path) -> str:
    """Sets aside the keys that were in use, and says what it means that another one is."""
    path, former = data_dir / keyfile.KEY_FILE, held.keys[0].name
    aside = keyfile.set_aside(data_dir, held)
    text = f"{source} gives {given.name}, and it takes the place of {former}, which is kept in {aside}"
    if not files.is_there(data_dir / files.QUEUE_FILE):
        return text
    # It can't be told from here whether the key of this machine's cluster was changed, or the machine is to move.
    return (
        f"{text}. The queue here stays: that is right if the key of this machine's cluster was changed. To move it to "
        f"another cluster instead, stop it, type `mv {aside} {path}`, start it without {source}, and type "
        "`meshq leave` before it is given that key"
    )


def make(random_bits: Callable[[int], int]) -> Key:
    """A new key."""
    return Key(random_bits(8 * keys.SECRET_BYTES).to_bytes(keys.SECRET_BYTES, "big"))
