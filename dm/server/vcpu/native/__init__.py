"""C of the worker: the usual path of a vCPU's thread, without the interpreter.

``build`` compiles it into ``dm.server.vcpu._exchange``; :mod:`dm.server.vcpu.exchange` is what Python sees of it.
"""
