"""CURVE keys for tcp endpoints: files, and ``x86-dm keygen`` that makes them.

The files are those of pyzmq and CZMQ (ZPL text with keys in Z85, https://rfc.zeromq.org/spec/32): NAME.key holds the
public key and may be given to anyone; NAME.key_secret holds both keys and must be kept private.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_Z85_SIZE: Final = 40
_SECRET_SUFFIX: Final = "_secret"


@dataclass(frozen=True, slots=True)
class Keys:
    """A pair of CURVE keys, each 40 characters of Z85."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Curve:
    """What a client needs: its own keys, and the daemon's public key."""

    own: Keys
    server: bytes


def load_keys(path: str | Path) -> Keys:
    """Return the pair in a file NAME.key_secret.

    Raises:
        ValueError: it holds no pair, or others may read it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{path}: others may use this secret key (mode {mode & 0o777:04o}); chmod 600 is needed")
    public, secret = _load(path)
    if secret is None:
        raise ValueError(f"{path}: there is no secret key in it; the file NAME.key_secret of x86-dm keygen is needed")
    import zmq

    if zmq.curve_public(secret) != public:
        raise ValueError(f"{path}: its public key does not belong to its secret key")
    return Keys(public, secret)


def load_public(path: str | Path) -> bytes:
    """Return the public key in a file NAME.key.

    Raises:
        ValueError: it holds none.
        OSError: it cannot be read.
    """
    return _load(path)[0]


def load_clients(directory: str | Path) -> frozenset[bytes]:
    """Return the public keys in all files of a directory whose names end in .key.

    Raises:
        ValueError: there are none, or a file is not a key file.
        OSError: one cannot be read.
    """
    if not os.path.isdir(directory):
        raise ValueError(f"{directory}: a directory with the clients' public keys (*.key) is needed")
    keys = frozenset(load_public(path) for path in sorted(Path(directory).glob("*.key")))
    if not keys:
        raise ValueError(f"{directory}: there is no public key (*.key) in it, so nobody could connect")
    return keys


def _load(path: str | Path) -> tuple[bytes, bytes | None]:
    from zmq.auth import load_certificate
    from zmq.utils import z85

    with open(path, "rb"):  # says better than pyzmq why it cannot be read
        pass
    wrong = ValueError(f"{path}: not a key file; x86-dm keygen makes them")
    try:
        public, secret = load_certificate(path)
        for key in (public, secret):
            if key is not None and (len(key) != _Z85_SIZE or len(z85.decode(key)) != 32):
                raise wrong
    except (ValueError, IndexError, KeyError):
        raise wrong from None
    return public, secret


def make_keys(name: Path) -> tuple[Path, Path]:
    """Make NAME.key and NAME.key_secret; returns their paths.

    Raises:
        FileExistsError: one of them exists already.
        OSError: they cannot be written.
    """
    from zmq.auth import create_certificates

    public = name.with_name(name.name + ".key")
    secret = name.with_name(public.name + _SECRET_SUFFIX)
    for path in (public, secret):
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists; a key is never overwritten")
    before = os.umask(0o077)
    try:
        create_certificates(name.parent, name.name)
    finally:
        os.umask(before)
    os.chmod(public, 0o644)
    return public, secret


EXIT_STATUS: Final = "Exit status: 0, or 1 when the keys cannot be written; files that exist are never overwritten."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and operands of ``x86-dm keygen``."""
    parser.add_argument("--json", action="store_true", help="print the two paths as a JSON object")
    parser.add_argument("name", type=Path, metavar="NAME", help="writes NAME.key (public) and NAME.key_secret")


def main(args: argparse.Namespace) -> int:
    """Make a pair of keys; returns 0, or 1 when they cannot be written."""
    try:
        public, secret = make_keys(args.name)
    except OSError as error:
        print(f"x86-dm keygen: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"public": str(public), "secret": str(secret)}))
    else:
        print(f"{public}: public, for the other side\n{secret}: secret, stays here")
    return 0
