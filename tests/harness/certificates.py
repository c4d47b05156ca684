"""Certificates for tests of TLS: an authority, and what it issues, made with openssl."""

import os
import secrets
import shutil
import ssl
import subprocess

import pytest

# How a key is made. Tools differ in how they write one down, and all of these are "a key in PEM".
KEYS = {
    "ec": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    "ec with parameters": ["ecparam", "-name", "prime256v1", "-genkey"],
    "rsa": ["genrsa", "-traditional", "2048"],
    "ed25519": ["genpkey", "-algorithm", "ed25519"],
}


class Pair:
    """A certificate (with its issuers) and its key, as two files."""

    def __init__(self, folder, name):
        self.certificate = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"

    def flags(self):
        return ["--tls-certificate", self.certificate, "--tls-key", self.key]

    def der(self):
        """The first certificate of the file."""
        text = self.certificate.read_text()
        return ssl.PEM_cert_to_DER_cert(text[: text.index(ssl.PEM_FOOTER)] + ssl.PEM_FOOTER)

    def become(self, other):
        """Takes over what another pair holds."""
        replace(self.key, other.key.read_bytes())
        replace(self.certificate, other.certificate.read_bytes())


class Authority:
    """Signs certificates; `certificate` is the file that clients trust."""

    def __init__(self, folder):
        self.folder = folder
        own = Pair(folder, "authority")
        self.certificate, self._key = own.certificate, own.key
        wanted = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign", "subjectKeyIdentifier=hash"]
        make_key(own.key, "ec")
        sign(own, f"/CN=Test authority {secrets.token_hex(4)}", wanted, ["-signkey", own.key])

    def issue(self, *names, key="ec", with_issuer=False):
        """A new certificate for these names (`DNS:…`, `IP:…`) and its key."""
        pair = Pair(self.folder, f"door-{secrets.token_hex(4)}")
        make_key(pair.key, key)
        wanted = [
            f"subjectAltName={','.join(names)}",
            "basicConstraints=critical,CA:FALSE",
            "extendedKeyUsage=serverAuth",
            "subjectKeyIdentifier=hash",
            "authorityKeyIdentifier=keyid",
        ]
        sign(pair, "/CN=door", wanted, ["-CA", self.certificate, "-CAkey", self._key])
        if with_issuer:
            pair.certificate.write_bytes(pair.certificate.read_bytes() + self.certificate.read_bytes())
        return pair


def make_key(path, kind):
    verb, *rest = KEYS[kind]
    openssl(verb, "-out", path, *rest)
    path.chmod(0o600)


def sign(pair, subject, extensions, issuer):
    """Makes the certificate of a pair that has its key."""
    request, file = pair.key.with_suffix(".csr"), pair.key.with_suffix(".ext")
    file.write_text("\n".join(extensions) + "\n")
    openssl("req", "-new", "-key", pair.key, "-subj", subject, "-out", request)
    signed = ["-days", "7", "-set_serial", f"0x{secrets.token_hex(8)}", "-extfile", file, "-out", pair.certificate]
    openssl("x509", "-req", "-in", request, *issuer, *signed)


def replace(path, data):
    """As tools that renew certificates do: a new file is renamed over the old one."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    os.replace(new, path)


def openssl(*args):
    program = shutil.which("openssl")
    if not program:
        pytest.skip("openssl is not installed")
    done = subprocess.run([program, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def served(port):
    """The certificate with which a door on this machine answers now, whoever signed it."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port), timeout=30))
