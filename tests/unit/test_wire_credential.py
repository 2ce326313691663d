"""A credential's text: what is read is what was made, and all else is refused with the reason."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from meshq.core.keys import Key
from meshq.errors import BadKey
from meshq.wire import security
from meshq.wire.security import CREDENTIAL_CHARS_MAX, CREDENTIAL_PREFIX, Credential, Role, Subject, read_credential

OLD, NEW = Key(bytes(20)), Key(bytes([1] * 20))


def made(name: str = "ci.runner-7", *keys: Key, role: Role = Role.SUBMIT) -> Credential:
    return Credential(name, security.passport(keys or (OLD,), Subject(role, name)))


MADE = made()


def packed(parts: object) -> str:
    return CREDENTIAL_PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(parts)).decode().rstrip("=")


def parts(of: Credential = MADE) -> list[object]:
    body = of.text.removeprefix(CREDENTIAL_PREFIX)
    found = msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert isinstance(found, list)
    return found


def test_what_is_read_is_what_was_made() -> None:
    credential = made("ci", OLD, NEW)
    found = read_credential(credential.text)
    assert (found.name, found.text) == ("ci", credential.text)
    assert found.passport.certificate == credential.passport.certificate
    assert found.passport.trusted == credential.passport.trusted
    assert found.passport.private.private_bytes_raw() == credential.passport.private.private_bytes_raw()
    assert security.client_context(found.passport) is not None


def test_a_mail_may_have_broken_it() -> None:
    lines = [MADE.text[at : at + 60] for at in range(0, len(MADE.text), 60)]
    assert read_credential("\r\n ".join(["", *lines, ""])).text == MADE.text


def test_it_is_one_word_and_its_repr_tells_nothing() -> None:
    assert MADE.text.startswith("mqc1-")
    assert set(MADE.text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert repr(MADE) == "Credential(name='ci.runner-7')"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the credential is empty; one begins with mqc1-"),
        (" \n", "is empty"),
        ("hello", "a credential begins with mqc1-; this text does not"),
        (OLD.text, "this is a key, and no credential"),
        ("MQ1-0000", "this is a key, and no credential"),
        ("mqc2-AAAA", "version 2; this meshq knows version 1: upgrade it"),
        ("mqc1-", "a part is missing"),
        ("mqc1-A", "a part is missing"),
        (MADE.text[:-5], "a part is missing"),
        (MADE.text[:300], "a part is missing"),
        (MADE.text + "AAAA", "a part is missing or mistyped"),
        (MADE.text + "!", "'!' is no character of a credential"),
        (MADE.text + "=", "'=' is no character of a credential"),
        ("mqc1-" + "A" * CREDENTIAL_CHARS_MAX, "longer than 16384 characters"),
        ("mqc1-" + "A" * 10_000_000, "longer than 16384 characters"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_none(text: str, says: str) -> None:
    with pytest.raises(BadKey) as refused:
        read_credential(text)
    assert says in refused.value.message
    assert len(refused.value.message) < 200


OTHER = parts(made("ci.runner-7"))
STRANGE = parts(made("ci.runner-7", NEW))


@pytest.mark.parametrize(
    "wrong",
    [
        ["other", *parts()[1:]],
        ["", *parts()[1:]],
        [*parts()[:2], OTHER[2], parts()[3]],
        [parts()[0], STRANGE[1], *parts()[2:]],
        [*parts()[:3], STRANGE[3]],
        [*parts()[:3], []],
        [*parts()[:3], [MADE.passport.trusted[0].public_bytes(Encoding.DER)] * 9],
        [*parts()[:3], [parts()[1]]],
        [*parts()[:2], bytes(31), parts()[3]],
        [parts()[0], b"", *parts()[2:]],
        [*parts(), None],
        parts()[:3],
        {"name": "ci"},
        parts(made("a b")),
        ["a" * 65, *parts()[1:]],
        parts(made("ci.runner-7", role=Role.HOLDER)),
        parts(made("a" * 32, role=Role.NODE)),
    ],
    ids=range(17),
)
def test_parts_that_do_not_belong_together(wrong: object) -> None:
    with pytest.raises(BadKey, match="damaged"):
        read_credential(packed(wrong))


def test_an_authority_that_only_bears_the_name_is_none() -> None:
    forged = replace(MADE.passport, private=Ed25519PrivateKey.generate())
    issuer = security.passport([NEW], Subject(Role.SUBMIT, MADE.name))
    for passport in (forged, replace(MADE.passport, trusted=issuer.trusted), replace(issuer, private=forged.private)):
        with pytest.raises(BadKey, match="damaged"):
            read_credential(Credential(MADE.name, passport).text)


def test_one_credential_has_one_text() -> None:
    body = msgspec.msgpack.encode(parts())
    name = MADE.name.encode()
    longer = body.replace(bytes([0xA0 + len(name)]) + name, b"\xd9" + bytes([len(name)]) + name, 1)
    assert msgspec.msgpack.decode(longer) == parts()
    with pytest.raises(BadKey, match="its end is mistyped, or something was added"):
        read_credential(CREDENTIAL_PREFIX + base64.urlsafe_b64encode(longer).decode().rstrip("="))
    # Some texts end in a character of which not all bits count.
    text = next(found for found in (made("a" * size).text for size in range(1, 9)) if len(found) % 4 == 3)
    assert read_credential(text).text == text
    with pytest.raises(BadKey, match="its end is mistyped"):
        read_credential(text[:-1] + chr(ord(text[-1]) + 1))


def is_refused_or_itself(text: str) -> None:
    try:
        found = read_credential(text)
    except BadKey as error:
        assert error.message.isprintable()
        assert len(error.message) < 200
    else:
        assert found.text == "".join(text.split())


@given(st.text())
def test_no_text_is_misread(text: str) -> None:
    is_refused_or_itself(text)
    is_refused_or_itself(CREDENTIAL_PREFIX + text)


@given(st.binary(max_size=600))
def test_no_bytes_are_misread(body: bytes) -> None:
    is_refused_or_itself(CREDENTIAL_PREFIX + base64.urlsafe_b64encode(body).decode().rstrip("="))


VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(max_size=70) | st.binary(max_size=40) | st.sampled_from(parts()),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@given(st.tuples(*[VALUES | st.just(part) for part in parts()]))
def test_no_parts_are_misread(some: Sequence[object]) -> None:
    is_refused_or_itself(packed(some))


def said(by: Credential) -> object:
    """All of it that means anything."""
    certificates = (by.passport.certificate, *by.passport.trusted)
    signed = [(each.tbs_certificate_bytes, each.signature) for each in certificates]
    return by.name, by.passport.private.private_bytes_raw(), signed


BODY = msgspec.msgpack.encode(parts())


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_a_changed_byte_is_seen(at: int, change: int) -> None:
    body = bytearray(BODY)
    body[at] ^= change
    try:
        found = read_credential(CREDENTIAL_PREFIX + base64.urlsafe_b64encode(body).decode().rstrip("="))
    except BadKey:
        return
    # The number of a signature's unused bits counts for nothing.
    assert said(found) == said(MADE)


@given(st.integers(0, len(MADE.text) - 1), st.sampled_from("AQgw_-a0 "), st.booleans())
def test_a_mistyped_character_is_seen(at: int, char: str, instead: bool) -> None:
    text = MADE.text[:at] + char + MADE.text[at + instead :]
    if "".join(text.split()) == MADE.text:
        assert read_credential(text).text == MADE.text
        return
    with pytest.raises(BadKey):
        read_credential(text)
