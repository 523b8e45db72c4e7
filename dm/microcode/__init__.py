"""Microcode: a small typed language in which instructions are described once.

Nothing here knows x86.  :mod:`dm.microcode.ir` is the language, :mod:`dm.microcode.builder` what it is written with,
:mod:`dm.microcode.verify` its checks, :mod:`dm.microcode.evaluate` what its operations give,
:mod:`dm.microcode.effects` what follows from a description; :mod:`dm.microcode.print_c` and
:mod:`dm.microcode.print_python` are the two printers.
"""

from dm.microcode.builder import Microcode, Procedure, procedure
from dm.microcode.ir import EACH, Does, Field, MicrocodeError, Primitive, Terminator, Value, Var, family, primitive

__all__ = [
    "EACH",
    "Does",
    "Field",
    "Microcode",
    "MicrocodeError",
    "Primitive",
    "Procedure",
    "Terminator",
    "Value",
    "Var",
    "family",
    "primitive",
    "procedure",
]
