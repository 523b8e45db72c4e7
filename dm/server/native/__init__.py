"""C of the worker: the usual path of a vCPU's thread, without the interpreter.

``build`` compiles it into ``dm.server._exchange``; :mod:`dm.server.exchange` is its border to Python.
"""
