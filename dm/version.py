"""The version, once.  The build reads it from here (a plain literal), and so do QMP and the wire protocol."""

from typing import Final

#: Version of x86-dm, as in its package metadata.
VERSION: Final = "0.1.0"
