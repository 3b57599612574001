"""Certificates of the webhook's server: made in memory, each under an authority whose key is forgotten at once."""

from __future__ import annotations

import os
import ssl
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator

SKEW = timedelta(minutes=5)  #: by which another machine's clock may be behind ours


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server shows, and what its callers trust: ``certificate``, ``key`` and ``authority`` are PEM."""

    hosts: frozenset[str]
    authority: bytes
    certificate: bytes
    key: bytes
    issued: datetime
    expires: datetime

    def __repr__(self) -> str:
        return f"Identity({sorted(self.hosts)}, until {self.expires:%Y-%m-%dT%H:%M:%SZ})"

    def due(self, now: datetime) -> bool:
        """Whether a successor is to be made: two thirds of its time are over."""
        return now >= self.issued + (self.expires - self.issued) * 2 / 3


def issue(hosts: frozenset[str], now: datetime, lifetime: timedelta) -> Identity:
    """A new identity for a server that is called by any of ``hosts`` (names or addresses)."""
    issuer_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"stepwell admission {x509.random_serial_number():x}")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stepwell admission")])
    authority = _draft(issuer, issuer, issuer_key, now, lifetime)
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    authority = authority.add_extension(_usage(signs=True), critical=True)
    leaf = _draft(subject, issuer, key, now, lifetime)
    leaf = leaf.add_extension(x509.SubjectAlternativeName([_name(host) for host in sorted(hosts)]), critical=False)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    leaf = leaf.add_extension(_usage(signs=False), critical=True)
    leaf = leaf.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
    )
    encoding = serialization.Encoding.PEM
    return Identity(
        hosts=hosts,
        authority=authority.sign(issuer_key, hashes.SHA256()).public_bytes(encoding),
        certificate=leaf.sign(issuer_key, hashes.SHA256()).public_bytes(encoding),
        key=key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        issued=now,
        expires=now + lifetime,
    )


def server_context() -> ssl.SSLContext:
    """A TLS server that has no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def show(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Let a context show a certificate from the next handshake on; open connections go on as they are.

    Raises ssl.SSLError or ValueError where the two are no pair.
    """
    with _private_file(certificate + b"\n" + key) as path:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)  # a bad pair must not touch the one in use
        context.load_cert_chain(path)


@contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """OpenSSL reads keys from files only. In memory where the system can, so that no key reaches a disk."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("stepwell-admission"), "wb", buffering=0) as file:
            file.write(content)
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(buffering=0) as file:
            file.write(content)
            yield file.name


def _draft(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
