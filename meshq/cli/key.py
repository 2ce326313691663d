"""`meshq key`: the cluster's key, and credentials for those who are not to have it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from meshq.cli.common import Command, Local, help_alone, local_options, note
from meshq.errors import Conflict, MeshqError, NoAnswer, NotFound

if TYPE_CHECKING:
    from meshq.core.keys import Key
    from meshq.core.reports import CredentialView

A = TypeVar("A")


@click.group(invoke_without_command=True)
@click.pass_context
def key(ctx: click.Context) -> None:
    """Show the cluster's key, and give out credentials.

    Who has the key may do everything, on every machine of the cluster. A credential is for those who only hand in
    tasks: they see, cancel and retry their own, and nothing else. Each of these commands takes --data-dir,
    --connect-timeout and --json.

    \b
    Examples:
      meshq key show
      meshq key generate
      meshq key issue --submit-only bob --out bob.credential
      meshq key list
      meshq key revoke bob
      meshq key rotate
    """
    help_alone(ctx)


# -- the key ---------------------------------------------------------------------------------------------


@key.command(cls=Command)
@local_options
def generate(local: Local) -> int:
    """Print a new key, and change nothing.

    For those who write configurations beforehand; meshq up makes one by itself.

    \b
    Examples:
      meshq key generate
      MESHQ_KEY=$(meshq key generate) meshq up
    """
    from meshq.node import keyring
    from meshq.node.clock import SystemClock

    made = keyring.make(SystemClock().random_bits)
    click.echo(json.dumps({"key": made.text}) if local.as_json else made.text)
    return 0


@key.command(cls=Command)
@local_options
def show(local: Local) -> int:
    """Show the key of this machine, and what to type on the next one.

    The key alone goes to stdout. It is in this machine's data directory; the daemon need not run.

    \b
    Examples:
      meshq key show
      meshq key show | ssh beta meshq up --key -
    """
    shown, *following = _held(local)
    if local.as_json:
        click.echo(json.dumps({"key": shown.text, "next": following[0].text if following else None}))
        return 0
    click.echo(shown.text)
    note(f"next machine: meshq up --key {shown.text}")
    if following:
        note(f"the key is being changed; next: {following[0].text}")
    return 0


@key.command(cls=Command)
@local_options
def rotate(local: Local) -> int:
    """Begin to change the key: both are valid then.

    The new key goes to every machine of the cluster that is up, or comes up before the change is finished; nothing
    stops. Whoever has the old key learns the new one in this way. To shut somebody out who has it, run meshq key finish
    soon; to shut out one who is connected, stop the machines and start them with a new key.

    \b
    Examples:
      meshq key rotate
    """
    _change(local, "rotate")
    old, *following = _held(local)
    if local.as_json:
        click.echo(json.dumps({"key": old.text, "next": following[0].text if following else None}))
    else:
        click.echo(f"a new key is on its way to all machines; {old.name}, the old one, is still valid")
        note("when all have it, drop the old one: meshq key finish")
    return 0


@key.command(cls=Command)
@click.option("--force", is_flag=True, help="Also if that shuts machines out that did not get the new key.")
@local_options
def finish(local: Local, force: bool) -> int:
    """Finish the change of the key: drop the old one.

    Refused while a machine that was there lately has not got the new key. Credentials that were issued before the
    change was begun are valid no more: issue others, under other names.

    \b
    Examples:
      meshq key finish
    """
    _change(local, "finish" + ("?force=1" if force else ""))
    (present, *_) = _held(local)
    if local.as_json:
        click.echo(json.dumps({"key": present.text}))
    else:
        click.echo("the old key is dropped; the new one is shown by: meshq key show")
        note("take the old one out of units, environments and configurations")
        note("credentials from before the change are valid no more: meshq key issue")
    return 0


def _change(local: Local, step: str) -> None:
    from meshq.core.messages import Done

    _ask(local, "POST", f"/key/{step}", Done, repeatable=False)


# -- credentials -----------------------------------------------------------------------------------------


@key.command(cls=Command)
@click.option("--submit-only", "name", required=True, metavar="NAME", help="Whom it is for; never given twice.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to put it; else it is printed.")
@local_options
def issue(local: Local, name: str, out: Path | None) -> int:
    """Make a credential with which somebody may submit tasks.

    Its bearer may submit tasks from anywhere, and see, cancel and retry those, and nothing else. It is one word, and a
    secret: hand it over as you would a password. The cluster keeps its name only.

    \b
    Examples:
      meshq key issue --submit-only bob --out bob.credential
      meshq key issue --submit-only bob --json
    """
    from meshq.core import access
    from meshq.wire import security

    access.check_name(name)
    held = _held(local)
    # The next key, while it is being changed: the other one is dropped soon.
    signing = [held[-1], *held[:-1]]
    subject = security.Subject(security.Role.SUBMIT, name)
    text = security.Credential(name, security.passport(signing, subject)).text
    with _place(out) as put:
        _put_on_list(local, name)
        put(text)
    if local.as_json:
        told = {"name": name, "credential": None if out else text, "file": str(out) if out else None}
        click.echo(json.dumps(told))
        return 0
    click.echo(text if out is None else f"wrote {out}")
    file = out or "FILE"
    note(f"{name} can submit tasks now: meshq submit TASK --to HOST:PORT --credential {file}")
    note(f"take it back with: meshq key revoke {name}")
    return 0


@key.command("list", cls=Command)
@local_options
def list_(local: Local) -> int:
    """List all credentials, revoked ones too.

    Those that ended with an older key are among them.

    \b
    Examples:
      meshq key list
      meshq key list --json
    """
    from meshq.core.reports import Credentials

    found = _ask(local, "GET", "/credentials", Credentials).credentials
    if local.as_json:
        click.echo(json.dumps({"credentials": [asdict(each) for each in found]}))
    elif found:
        _tell(found)
    else:
        note("no credential was issued; make one with: meshq key issue --submit-only NAME")
    return 0


@key.command(cls=Command)
@click.argument("name")
@local_options
def revoke(local: Local, name: str) -> int:
    """Let a credential be valid no more, for good.

    From now on its bearer gets nothing, wherever a machine has heard of it. Tasks that were submitted with it stay.

    \b
    Examples:
      meshq key revoke bob
    """
    from meshq.core import access
    from meshq.core.messages import Done

    access.check_name(name)
    _ask(local, "POST", f"/credential/{name}/revoke", Done)
    if local.as_json:
        click.echo(json.dumps({"revoked": name}))
    else:
        click.echo(f"revoked {name}; its tasks stay: meshq tasks")
    return 0


def _held(local: Local) -> tuple[Key, ...]:
    """The keys in the data directory, the one that this machine shows first."""
    from meshq.store import keyfile

    held = keyfile.read(local.data_dir).keys
    if not held:
        raise NotFound(
            f"{local.data_dir} holds no key: meshq up makes one there; to join a cluster that is there already, type "
            "meshq key show on one of its machines, and here: meshq up --key KEY"
        )
    return held


def _put_on_list(local: Local, name: str) -> None:
    from meshq.core.messages import Done

    try:
        _ask(local, "POST", f"/credential/{name}", Done, repeatable=False)
    except NoAnswer as error:
        error.append(f"; {name} may be on the list without a credential: see meshq key list, and choose another name")
        raise


@contextmanager
def _place(out: Path | None) -> Iterator[Callable[[str], None]]:
    """What puts the credential where it belongs; the place is taken before anything else is done."""
    if out is None:
        yield lambda text: None
        return
    from meshq.store import files

    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{out}: is there already; choose another file") from error
    except OSError as error:
        raise files.disk_error(out, error) from error
    try:
        with os.fdopen(handle, "w") as file:
            yield lambda text: print(text, file=file)
    except OSError as error:
        out.unlink(missing_ok=True)
        failed = files.disk_error(out, error)
        failed.append("; the name is on the list by now: choose another, see meshq key list")
        raise failed from error
    except MeshqError:
        out.unlink(missing_ok=True)
        raise


def _ask(local: Local, method: str, path: str, answer: type[A], *, repeatable: bool = True) -> A:
    from meshq.client import ways
    from meshq.client.connection import Connection

    async def ask() -> A:
        way = ways.find(local.data_dir, to=None, key=None, credential=None)
        connection = Connection(way, local.connect_timeout_s)
        try:
            return await connection.call(method, path, answer, repeatable=repeatable)
        finally:
            await connection.close()

    return asyncio.run(ask())


def _tell(found: tuple[CredentialView, ...]) -> None:
    from meshq.cli import tables

    table = tables.plain_table(("~NAME", 36), ("ISSUED", 19), ("REVOKED", 19))
    for each in found:
        table.add_row(each.name, tables.when(each.issued_ms or None), tables.when(each.revoked_ms))
    tables.console().print(table)
