"""The client of a daemon elsewhere: what opens the way to it, and what is said where there is none."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshq import AsyncClient, Client
from meshq.core.keys import Key
from meshq.errors import BadKey, ConfigError, Forbidden, MeshqError, NoAnswer, NoDaemon, StoreError
from meshq.store import keyfile
from meshq.store.keyfile import Held
from meshq.wire import security
from meshq.wire.security import HOLDER, Role, Subject
from tests.unit.elsewhere import KEY, OTHER_KEY, Stranger, credential, daemon


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHQ_KEY", raising=False)


def holding(folder: Path, *keys: Key) -> Path:
    folder.mkdir()
    keyfile.write(folder, Held(keys))
    return folder


async def refusal(
    to: str, data_dir: Path | None = None, *, key: str | None = KEY.text, credential: str | None = None,
    timeout_s: float = 3.0,
) -> MeshqError:  # fmt: skip
    """What a client is told that asks who is there."""
    async with AsyncClient(data_dir, connect_timeout_s=timeout_s, to=to, key=key, credential=credential) as client:
        with pytest.raises(MeshqError) as refused:
            await client.health()
    return refused.value


# -- what opens ------------------------------------------------------------------------------------------


async def test_the_key_opens_all_but_what_is_for_the_machines_own_user(tmp_path: Path) -> None:
    async with daemon(tmp_path / "there", slots=1) as to, AsyncClient(to=to, key=KEY.text) as client:
        handle = await client.submit("primes", 100)
        assert (await handle.result())["count"] == 25
        assert [record.id async for record in client.tasks()] == [handle.id]
        assert (await client.health()).role == "leader"
        assert (await client.status()).tasks["done"] == 1
        assert (await client.stats()).node == (await client.cluster_story()).node
        for wish in (client.stop, client.leave, client.recover):
            with pytest.raises(Forbidden, match="from its own machine only"):
                await wish()


async def test_the_key_may_stand_in_the_environment_or_in_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, empty = holding(tmp_path / "here", KEY), tmp_path / "empty"
    async with daemon(tmp_path / "there") as to:
        async with AsyncClient(here, to=to) as client:
            assert (await client.health()).ok
        monkeypatch.setenv("MESHQ_KEY", KEY.text.upper())
        async with AsyncClient(empty, to=to) as client:
            assert (await client.health()).ok
        monkeypatch.setenv("MESHQ_KEY", OTHER_KEY.text)
        assert "does not know the key in MESHQ_KEY" in (await refusal(to, empty, key=None)).message
        async with AsyncClient(here, to=to, key=KEY.text) as client:
            assert (await client.health()).ok


@pytest.mark.parametrize("there", [[KEY], [OTHER_KEY], [KEY, OTHER_KEY], [OTHER_KEY, KEY]], ids=range(4))
async def test_while_the_key_is_changed_each_of_the_two_opens(tmp_path: Path, there: Sequence[Key]) -> None:
    here = holding(tmp_path / "here", KEY, OTHER_KEY)
    holding(tmp_path / "there", *there)
    async with daemon(tmp_path / "there", key="") as to, AsyncClient(here, to=to) as client:
        assert (await client.health()).ok
        assert (await client.status()).majority


async def test_one_client_stays_when_the_daemon_starts_anew_with_the_other_key(tmp_path: Path) -> None:
    here, there = holding(tmp_path / "here", KEY, OTHER_KEY), tmp_path / "there"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with AsyncClient(here, to=f"127.0.0.1:{port}") as client:
        async with daemon(there, port=port):
            node = (await client.health()).node
        async with daemon(there, port=port, key=OTHER_KEY.text):
            assert (await client.health()).node == node


async def test_a_name_leads_there_too(tmp_path: Path) -> None:
    async with daemon(tmp_path) as to, AsyncClient(to=f"localhost:{to.rpartition(':')[2]}", key=KEY.text) as client:
        assert (await client.health()).ok


def test_the_other_client_does_the_same(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="a part is missing"):
        Client(to="127.0.0.1:1", key="mq1-abcd")
    with Client(to="127.0.0.1:1", key=KEY.text) as client, pytest.raises(NoDaemon, match="no daemon listens at 127"):
        client.health()


# -- what does not ---------------------------------------------------------------------------------------


async def test_another_key(tmp_path: Path) -> None:
    async with daemon(tmp_path) as to:
        refused = await refusal(to, key=OTHER_KEY.text)
        assert isinstance(refused, BadKey)
        assert refused.message == (
            f"that machine has another key: {to} does not know the key that was given; meshq key show prints the right "
            "one there (give it as MESHQ_KEY)"
        )
        refused = await refusal(to, key=None, credential=credential(OTHER_KEY))
        assert f"another key: {to} does not know the credential ci; ask for another" in refused.message


async def test_a_credential_of_a_key_that_was_changed(tmp_path: Path) -> None:
    async with daemon(tmp_path) as to:
        refused = await refusal(to, key=None, credential=credential(OTHER_KEY, KEY), timeout_s=0.3)
    assert isinstance(refused, BadKey)
    assert "does not take the credential ci any more; ask for another there: meshq key issue" in refused.message


async def test_a_credential_that_is_not_listed(tmp_path: Path) -> None:
    async with daemon(tmp_path) as to:
        refused = await refusal(to, key=None, credential=credential(name="nobody"))
    assert isinstance(refused, Forbidden)
    assert "nobody" in refused.message


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        to = f"127.0.0.1:{free.getsockname()[1]}"
    refused = await refusal(to)
    assert (type(refused), refused.message) == (
        NoDaemon, f"no daemon listens at {to}; start it there with: meshq up (it tells its port)"
    )  # fmt: skip
    assert "no machine nosuch.invalid is known here" in (await refusal("nosuch.invalid:7373")).message
    # A link-local address without its interface.
    assert "can't be reached" in (await refusal("[fe80::1]:7373")).message


async def test_an_insecure_daemon(tmp_path: Path) -> None:
    async with daemon(tmp_path, key="", insecure=True) as to:
        refused = await refusal(to)
    assert isinstance(refused, ConfigError)
    assert refused.message.startswith(f"the meshq at {to} is insecure: it has no key")


WEB = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"


@pytest.mark.parametrize("greets", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", WEB, b"\x00" * 100], ids=range(4))
async def test_somebody_else(greets: bytes) -> None:
    async with Stranger(greets) as stranger:
        refused = await refusal(stranger.to)
    assert (type(refused), refused.message) == (
        NoDaemon,
        f"no meshq answers at {stranger.to}, but something else: is the port right? (meshq status shows it there)",
    )


async def test_somebody_who_says_nothing() -> None:
    async with Stranger(silent=True) as stranger:
        refused = await refusal(stranger.to, timeout_s=0.3)
    assert type(refused) is NoDaemon
    assert f"nothing at {stranger.to} answered: is that machine on" in refused.message


@pytest.mark.parametrize("subject", [HOLDER, Subject(Role.SUBMIT, "ci")], ids=lambda subject: str(subject.role))
async def test_who_is_no_node_is_told_nothing(subject: Subject) -> None:
    """Whoever has a credential could wait for others' tasks at a port otherwise."""
    async with Stranger(WEB, security.server_context(security.passport([KEY], subject))) as stranger:
        refused = await refusal(stranger.to)
    assert isinstance(refused, BadKey)
    assert refused.message.startswith(f"{stranger.to} shows a client's certificate, and no machine's")
    assert not b"".join(stranger.heard)


async def test_a_node_that_breaks_off_was_not_the_key() -> None:
    node = security.passport([KEY], Subject(Role.NODE, "a" * 32))
    async with Stranger(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", security.server_context(node)) as stranger:
        refused = await refusal(stranger.to, timeout_s=0.3)
    assert isinstance(refused, NoAnswer)
    assert refused.message == f"the daemon at {stranger.to} broke off; see the log there"


async def test_a_node_that_hangs_may_have_done_it() -> None:
    node = security.passport([KEY], Subject(Role.NODE, "a" * 32))
    async with (
        Stranger(b"", security.server_context(node), silent=True) as stranger,
        AsyncClient(to=stranger.to, key=KEY.text, connect_timeout_s=0.2) as client,
    ):
        with pytest.raises(NoAnswer, match=r"no answer within 0\.4 s; .*; it may still take the task"):
            await client.submit("primes", 1)


# -- what is not even tried ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("", "--to '': the host is missing"),
        ("alpha", "--to 'alpha': the port is missing, as in alpha:7373"),
        ("alpha:0", "the port '0' is no number from 1 to 65535"),
        ("a b:7373", "'a b' is neither an IP address nor a host name"),
        ("fe80::1", "an IPv6 address needs brackets"),
    ],
)
def test_what_is_no_address(to: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        AsyncClient(to=to, key=KEY.text)
    assert says in refused.value.message


def test_there_must_be_one_proof_and_somebody_to_show_it_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=rf"there is no key in {tmp_path}: set MESHQ_KEY .* or give a credential"):
        AsyncClient(tmp_path, to="alpha:7373")
    with pytest.raises(ConfigError, match="a key and a credential are given"):
        AsyncClient(to="alpha:7373", key=KEY.text, credential=credential())
    with pytest.raises(ConfigError, match="a key is for a daemon elsewhere"):
        AsyncClient(key=KEY.text)
    with pytest.raises(ConfigError, match="a credential is for a daemon elsewhere"):
        AsyncClient(credential=credential())
    with pytest.raises(BadKey, match="this is a credential, and no key"):
        AsyncClient(to="alpha:7373", key=credential())
    with pytest.raises(BadKey, match="this is a key, and no credential"):
        AsyncClient(to="alpha:7373", credential=KEY.text)
    monkeypatch.setenv("MESHQ_KEY", "mq1-abcd")
    with pytest.raises(BadKey, match="MESHQ_KEY: a key has 36 characters"):
        AsyncClient(tmp_path, to="alpha:7373")


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    here = holding(tmp_path / "here", KEY)
    (here / keyfile.KEY_FILE).chmod(0o644)
    with pytest.raises(StoreError, match="others may read the key"):
        AsyncClient(here, to="alpha:7373")
