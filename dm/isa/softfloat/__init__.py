"""Floating point in integers: unpack, compute, round, pack, once for every format and every instruction set.

Everything here is a pure procedure of the microcode: bits in, bits and flags out, no state of the machine.  So both
engines compute the same on any host.

A *result* is 128 bits: the value from bit 0 on, and from bit :data:`STATUS_AT` on what the operation has to say, in the
places that the x87 status word has for it: exception flags IE DE ZE OE UE PE in bits 0-5 and, in bit 9 (C1), whether
the value was rounded away from zero.  An operand may carry a status too: DE of a memory operand that was a denormal in
its own format and no longer is one.

``control`` is laid out as the x87 control word: exception masks in bits 0-5, precision in 8-9, rounding in 10-11.
"""
