"""Certificates out of a key, and what they prove in a real handshake."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshq.core.keys import Key
from meshq.wire import security
from meshq.wire.security import HOLDER, Authority, Passport, Role, Subject

OLD, NEW = Key(b"\1" * 20), Key(b"\2" * 20)
NODE = Subject(Role.NODE, "a" * 32)


async def meet(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Any, Any]:
    """What each side's certificate tells the other; raises what the client sees where they don't come together."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.set_result(writer.get_extra_info("peercert"))
        writer.write(await reader.readexactly(4))
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            return security.subject_of(writer.get_extra_info("peercert")), security.subject_of(await told)
        finally:
            writer.close()


def test_an_authority_is_the_same_wherever_it_is_made() -> None:
    assert Authority(OLD).certificate == Authority(OLD).certificate
    assert Authority(OLD).certificate != Authority(NEW).certificate


def test_the_name_of_a_cluster_in_announcements_tells_neither_name_nor_key() -> None:
    names = {security.cluster_hash(key, cluster) for key in (OLD, NEW) for cluster in ("meshq", "lab")}
    assert len(names) == 4
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in names)


async def test_each_side_learns_whom_the_others_certificate_names() -> None:
    server = security.server_context(security.passport([OLD], NODE))
    for subject in (HOLDER, Subject(Role.NODE, "b" * 32), Subject(Role.SUBMIT, "ci")):
        client = security.client_context(security.passport([OLD], subject))
        assert await meet(server, client) == (NODE, subject)


async def test_a_nodes_certificate_tells_a_stranger_its_id_and_the_name_of_its_key_and_nothing_else() -> None:
    """Before it has proved anything. The authority's own certificate comes along: its name and its public key."""
    seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Looker(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            seen.set_result(self.getpeercert(binary_form=True) or b"")

    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    stranger.sslobject_class = Looker
    with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
        await meet(security.contexts_of([OLD, NEW], NODE.name).server, stranger)
    shown, authority = x509.load_der_x509_certificate(await seen), Authority(OLD).certificate
    assert shown.subject.rfc4514_string() == f"CN={NODE.name}"
    assert shown.issuer.rfc4514_string() == f"CN=meshq {OLD.name}"
    assert (shown.not_valid_before_utc, shown.not_valid_after_utc) == (security.NOT_BEFORE, security.NOT_AFTER)
    told = {type(each.value): each.value for each in shown.extensions}
    assert told.pop(x509.SubjectAlternativeName) == x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(NODE.uri)]
    )
    # It tells apart what the name of the key tells apart, and no more.
    issuer = told.pop(x509.AuthorityKeyIdentifier)
    assert issuer == x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )
    assert told.pop(x509.SubjectKeyIdentifier) == x509.SubjectKeyIdentifier.from_public_key(shown.public_key())
    # What is left is the same in all certificates.
    assert set(told) == {x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage}


async def test_another_key_opens_nothing() -> None:
    server = security.server_context(security.passport([OLD], NODE))
    with pytest.raises(ssl.SSLCertVerificationError):
        await meet(server, security.client_context(security.passport([NEW], HOLDER)))
    # One that believes the server, and has nothing that the server believes.
    with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)) as caught:
        await meet(server, security.client_context(security.passport([NEW, OLD], HOLDER)))
    assert not isinstance(caught.value, ssl.SSLCertVerificationError)


async def test_while_a_key_is_changed_both_open() -> None:
    server = security.contexts_of([OLD, NEW], NODE.name).server
    for keys in ([OLD], [OLD, NEW]):
        assert await meet(server, security.client_context(security.passport(keys, HOLDER))) == (NODE, HOLDER)
    # Who has dropped the old one is called with a certificate of the new one.
    done = security.server_context(security.passport([NEW], Subject(Role.NODE, "b" * 32)))
    first, second = security.contexts_of([OLD, NEW], NODE.name).clients
    with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
        await meet(done, first)
    assert await meet(done, second) == (Subject(Role.NODE, "b" * 32), NODE)


async def test_a_certificate_can_not_issue_others() -> None:
    """A bearer of any certificate who signs one for a node gets nowhere."""
    bearer = security.passport([OLD], Subject(Role.SUBMIT, "ci"))
    private = Ed25519PrivateKey.generate()
    forged = (
        x509.CertificateBuilder(
            issuer_name=bearer.certificate.subject, subject_name=bearer.certificate.subject,
            public_key=private.public_key(), serial_number=7,
            not_valid_before=security.NOT_BEFORE, not_valid_after=security.NOT_AFTER,
        )
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(NODE.uri)]), critical=False)
        .sign(bearer.private, None)
    )  # fmt: skip
    server = security.server_context(security.passport([OLD], NODE))
    client = security.client_context(Passport(forged, private, bearer.trusted))
    with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
        await meet(server, client)


async def test_nothing_older_than_tls_1_3_is_spoken() -> None:
    server = security.server_context(security.passport([OLD], NODE))
    client = security.client_context(security.passport([OLD], HOLDER))
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await meet(server, client)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["meshq:node:" + "a" * 31],
        ["meshq:node:" + "a" * 31 + "g"],
        ["meshq:king:x"],
        ["http:node:" + "a" * 32],
        ["meshq"],
        ["meshq:holder:", "meshq:submit:ci"],
    ],
)
def test_a_certificate_that_names_nobody_we_know_is_nobodys(uris: list[str]) -> None:
    assert security.subject_of({"subjectAltName": tuple(("URI", uri) for uri in uris)}) is None
    assert security.subject_of(None) is None
