"""QMP server: the daemon's monitor, spoken as QEMU speaks it.

Layers, each usable without the one above: :mod:`~dm.qmp.framing` (bytes to JSON objects), :mod:`~dm.qmp.schema`
(types, argument checking, introspection), :mod:`~dm.qmp.protocol` (one connection, no I/O), :mod:`~dm.qmp.events`
(rate limits), :mod:`~dm.qmp.commands`, :mod:`~dm.qmp.server` (asyncio).  The daemon itself is seen only through
:class:`dm.qmp.control.Control`.

The ``qemu.qmp`` package is a client: its server side takes one peer, reads lines (its own client sends none) and
queues output without a bound.  So nothing here is built on it; the tests use it as the client to serve.
"""
