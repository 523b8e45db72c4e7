"""Microcode: a small typed language in which instructions are described once.

Nothing here knows x86.  :mod:`dm.microcode.ir` is the language, :mod:`dm.microcode.verify` its checks,
:mod:`dm.microcode.print_c` and :mod:`dm.microcode.print_python` the two printers.
"""

from dm.microcode.ir import Field, Microcode, MicrocodeError, Primitive, Procedure, Terminator, Value, Var

__all__ = ["Field", "Microcode", "MicrocodeError", "Primitive", "Procedure", "Terminator", "Value", "Var"]
