"""Mutual TLS out of a cluster's key: the authority that the key is, and the certificates that it issues.

The authority's private key is derived from the cluster's key, so whoever holds the key issues its own certificate and
nobody has to be asked. All that a machine tells another of itself stands in its certificate: which node it is, or
which client. What a certificate does not say is not believed.
"""

from __future__ import annotations

import base64
import datetime
import re
import ssl
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final

import aiohttp
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshq.core import access
from meshq.core.ids import HASH_CHARS, is_id
from meshq.core.keys import Key
from meshq.errors import BadKey

# A machine whose clock was never set must be let in, too: the key is what counts, not the date.
NOT_BEFORE: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_SCHEME: Final = "meshq"
_ISSUER: Final = "meshq "
CREDENTIAL_PREFIX: Final = "mqc1-"
CREDENTIAL_CHARS_MAX: Final = 16_384


class Role(StrEnum):
    """What a certificate's holder may do."""

    NODE = "node"  # be this node, and all that a holder may
    HOLDER = "holder"  # whatever a client may: it has the key
    SUBMIT = "submit"  # submit, and see and cancel what it submitted itself


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names.

    Args:
        role: What it may do.
        name: A node's id; a credential's id; empty for a holder.
    """

    role: Role
    name: str = ""

    @property
    def uri(self) -> str:
        """As it stands in the certificate."""
        return f"{_SCHEME}:{self.role}:{self.name}"


_ROLES: Final = frozenset(str(role) for role in Role)
HOLDER: Final = Subject(Role.HOLDER)


def _derived(key: Key, purpose: str, length: int = 32) -> bytes:
    return HKDF(hashes.SHA256(), length, salt=None, info=f"meshq {purpose}".encode()).derive(key.secret)


def cluster_hash(key: Key, cluster: str) -> str:
    """What a cluster is called in announcements: 16 hexadecimal digits that tell neither its name nor its key."""
    return _derived(key, f"cluster 1 {cluster}", HASH_CHARS // 2).hex()


class Authority:
    """The certificate authority that a key is. Two that are made of one key are the same, byte for byte."""

    def __init__(self, key: Key) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(_derived(key, "authority 1"))
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER + key.name)])
        self.certificate = self._sign(
            self._name, self._private.public_key(), serial=1,
            extensions=[
                (x509.BasicConstraints(ca=True, path_length=0), True),
                (_usage(signs_certificates=True), True),
                (x509.SubjectKeyIdentifier.from_public_key(self._private.public_key()), False),
            ],
        )  # fmt: skip

    def issue(self, subject: Subject, public: Ed25519PublicKey) -> x509.Certificate:
        """A certificate for this subject, which is shown to have it by this public key."""
        return self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.name or subject.role)]), public,
            serial=x509.random_serial_number(),
            extensions=[
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_usage(signs_certificates=False), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False),
                (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(subject.uri)]), False),
                (x509.SubjectKeyIdentifier.from_public_key(public), False),
                (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._private.public_key()), False),
            ],
        )  # fmt: skip

    def _sign(
        self,
        name: x509.Name,
        public: Ed25519PublicKey,
        *,
        serial: int,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            issuer_name=self._name, subject_name=name, public_key=public, serial_number=serial,
            not_valid_before=NOT_BEFORE, not_valid_after=NOT_AFTER,
        )  # fmt: skip
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._private, None)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Passport:
    """A certificate, its private key, and the authorities of those to whom its bearer talks.

    Args:
        certificate: Who the bearer is.
        private: Never leaves this machine, but for a credential's.
        trusted: The authorities whose certificates are believed.
    """

    certificate: x509.Certificate
    private: Ed25519PrivateKey
    trusted: tuple[x509.Certificate, ...]


def passport(keys: Sequence[Key], subject: Subject) -> Passport:
    """A new certificate of the first key's authority, whose bearer believes those of all.

    Args:
        keys: At least one.
        subject: Who the bearer is.
    """
    authorities = [Authority(key) for key in keys]
    private = Ed25519PrivateKey.generate()
    certificate = authorities[0].issue(subject, private.public_key())
    return Passport(certificate, private, tuple(authority.certificate for authority in authorities))


def passports(keys: Sequence[Key], subject: Subject) -> list[Passport]:
    """One for each key, of that key's authority; each believes those of all.

    While a key is being changed, some take both, and afterwards only the second is believed.
    """
    return [passport([key, *(other for other in keys if other != key)], subject) for key in keys]


@dataclass(frozen=True, slots=True)
class Credential:
    """What somebody without the key submits with: a certificate that names it, and its private key.

    Args:
        name: What the cluster calls it; see `access.is_name`.
        passport: How it proves itself; never in its `repr`.
    """

    name: str
    passport: Passport = field(repr=False)

    @property
    def text(self) -> str:
        """As it is handed to whoever is to use it: one word, and a secret."""
        parts = (
            self.name,
            self.passport.certificate.public_bytes(serialization.Encoding.DER),
            self.passport.private.private_bytes_raw(),
            [authority.public_bytes(serialization.Encoding.DER) for authority in self.passport.trusted],
        )
        return CREDENTIAL_PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(parts)).decode().rstrip("=")


_Parts = tuple[
    str,
    bytes,
    Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)],
    Annotated[list[bytes], msgspec.Meta(min_length=1, max_length=8)],
]
# What reading a certificate of anybody's making raises.
_UNREADABLE: Final = (
    ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
    x509.ExtensionNotFound, x509.UnsupportedGeneralNameType,
)  # fmt: skip
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]*")


def read_credential(text: str) -> Credential:
    """The credential that somebody was given; spaces and line breaks in it don't matter.

    Raises:
        BadKey: It is none; the text says why, and never what was given as a whole.
    """
    chars = "".join(text[: 2 * CREDENTIAL_CHARS_MAX].split())
    if not chars.startswith(CREDENTIAL_PREFIX):
        raise BadKey(_no_credential(chars))
    if len(chars) > CREDENTIAL_CHARS_MAX:
        raise BadKey(f"the credential is longer than {CREDENTIAL_CHARS_MAX} characters: something was added")
    packed = chars.removeprefix(CREDENTIAL_PREFIX)
    if not _BASE64.fullmatch(packed):
        wrong = next(char for char in packed if not _BASE64.fullmatch(char))
        raise BadKey(f"{wrong!r} is no character of a credential: something was added, or it is mistyped")
    try:
        parts = msgspec.msgpack.decode(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), type=_Parts)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of certificates that are not quite right
            found = _verified(*parts)
    except (*_UNREADABLE, msgspec.MsgspecError, Warning) as error:
        raise BadKey("the credential is damaged: a part is missing or mistyped; copy it anew, as a whole") from error
    if found.text != chars:
        raise BadKey("the credential is damaged: its end is mistyped, or something was added; copy it anew")
    return found


def _verified(name: str, der: bytes, raw: bytes, trusted: list[bytes]) -> Credential:
    """The credential of these parts, each of which fits the others; raises one of `_UNREADABLE`."""
    certificate, private = x509.load_der_x509_certificate(der), Ed25519PrivateKey.from_private_bytes(raw)
    authorities = tuple(map(x509.load_der_x509_certificate, trusted))
    for authority in authorities:
        authority.verify_directly_issued_by(authority)
    issuers = [each for each in authorities if each.subject == certificate.issuer]
    if not (access.is_name(name) and issuers) or certificate.public_key() != private.public_key():
        raise ValueError("parts of several credentials")
    certificate.verify_directly_issued_by(issuers[0])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if [each.value for each in names if isinstance(each, x509.UniformResourceIdentifier)] != [
        Subject(Role.SUBMIT, name).uri
    ]:
        raise ValueError("the certificate names another")
    return Credential(name, Passport(certificate, private, authorities))


def _no_credential(chars: str) -> str:
    if not chars:
        return f"the credential is empty; one begins with {CREDENTIAL_PREFIX}"
    if re.match(r"mqc[0-9]+-", chars):
        version = chars.partition("-")[0].removeprefix("mqc")
        return f"this is a credential of version {version}; this meshq knows version 1: upgrade it"
    if chars.lower().startswith("mq"):
        return f"this is a key, and no credential; one begins with {CREDENTIAL_PREFIX}"
    return f"a credential begins with {CREDENTIAL_PREFIX}; this text does not"


def server_context(own: Passport) -> ssl.SSLContext:
    """For whoever is called; callers have to show a certificate, too."""
    return _context(ssl.PROTOCOL_TLS_SERVER, own)


def client_context(own: Passport) -> ssl.SSLContext:
    """For whoever calls a node. Names and addresses change: who was called is told by its certificate's subject."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, own)
    context.sslobject_class = _NodesOnly
    return context


class NoNode(ssl.SSLError):
    """Whoever was called proved itself, and is no node."""


class _NodesOnly(ssl.SSLObject):
    """One side of a handshake that ends well only where the other is a node.

    Who has a credential of the same cluster could answer in a node's place otherwise, and be told the first request.
    """

    def do_handshake(self) -> None:
        super().do_handshake()
        subject = subject_of(self.getpeercert())
        if subject is None or subject.role != Role.NODE:
            raise NoNode("no node")


@dataclass(frozen=True, slots=True)
class Contexts:
    """How a node proves itself, and what it believes.

    Args:
        server: For those who call it.
        clients: For whom it calls: one for each of its keys, in the order in which they are tried.
        issuers: The names of its keys.
    """

    server: ssl.SSLContext
    clients: tuple[ssl.SSLContext, ...]
    issuers: frozenset[str]

    def prove(self, peercert: Any, node: str) -> bool:
        """Whether the other side's certificate, which its handshake proved, names this node and is believed still."""
        return subject_of(peercert) == Subject(Role.NODE, node) and key_of(peercert) in self.issuers


def contexts_of(keys: Sequence[Key], node: str) -> Contexts:
    """Those of a node that holds these keys, at least one; it shows the first to those who call it."""
    own = passports(keys, Subject(Role.NODE, node))
    return Contexts(server_context(own[0]), tuple(map(client_context, own)), frozenset(key.name for key in keys))


def _context(protocol: Any, own: Passport) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata="".join(_pem(certificate) for certificate in own.trusted))
    # OpenSSL reads them from a file only; nobody else can open it, and it is gone at once.
    with tempfile.NamedTemporaryFile("w", prefix="meshq-") as file:
        file.write(_pem(own.certificate))
        file.write(
            own.private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode()
        )
        file.flush()
        context.load_cert_chain(file.name)
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # every connection proves the key anew
    return context


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def subject_of(peercert: Any) -> Subject | None:
    """Whom the other side's certificate names, which its handshake proved; None if that is nobody we know.

    Args:
        peercert: What `ssl.SSLObject.getpeercert` told, which only tells what was verified.
    """
    uris = [value for kind, value in (peercert or {}).get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        return None
    scheme, _, rest = uris[0].partition(":")
    role, _, name = rest.partition(":")
    if scheme != _SCHEME or role not in _ROLES or (role == Role.NODE and not is_id(name)):
        return None
    return Subject(Role(role), name)


def key_of(peercert: Any) -> str:
    """The name of the key whose authority issued the other side's certificate; empty where there is none."""
    for (kind, value), *_ in (peercert or {}).get("issuer", ()):
        if kind == "commonName":
            return str(value).removeprefix(_ISSUER)
    return ""


def is_distrust(error: BaseException) -> bool:
    """Whether a call failed since one side did not believe the other's certificate, as far as can be told.

    The side that is called judges last. It hangs up then, often before its reason has left.
    """
    return (
        cause_of(error, ssl.SSLError, aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)
        is not None
    )


def cause_of(error: BaseException, *kinds: type[Exception]) -> BaseException | None:
    """What of these kinds an error was raised for, itself perhaps; None where there is nothing of them."""
    known: BaseException | None = error
    while known is not None and not isinstance(known, kinds):
        known = getattr(known, "os_error", None) or known.__cause__
    return known
