"""Extension modules built from this tree: what one was made from, whether it can be used, how it is put in place."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def digest(root: Path, sources: Iterable[Path]) -> str:
    """Return the SHA-256 of files below ``root``, their names included, as hex digits.

    Raises:
        OSError: one cannot be read.
        ValueError: one is not below ``root``.
    """
    sha = hashlib.sha256()
    for path in sorted(sources):
        sha.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def status(what: str, made_from: Callable[[], str], wanted: Callable[[], str], rebuild: str) -> tuple[bool, str]:
    """Return whether an extension module can be used, and why (not).

    Args:
        what: its name in a sentence.
        made_from: imports it and returns the digest of what it was built from.
        wanted: returns the digest of the sources that are here.
        rebuild: how to build it.
    """
    try:
        made = made_from()
    except ImportError as error:
        return False, f"{what} is not built ({error}); to build it: {rebuild}"
    if made != wanted():
        return False, f"{what} was built from other sources; to rebuild it: {rebuild}"
    return True, "built from these sources"


def compiler() -> list[str]:
    """Return the command of the C compiler: environment variable CC, or cc."""
    return shlex.split(os.environ.get("CC", "cc"))


def put(fresh: Path, module: Path) -> None:
    """Make ``fresh`` the extension module: replaced, not rewritten, so that processes that run the old one keep it.

    Raises:
        OSError: it cannot be copied there.
    """
    os.replace(shutil.copy2(fresh, module.with_suffix(".new")), module)
