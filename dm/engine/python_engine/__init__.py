"""The Python engine: the readable reference, and the engine to use without a C compiler.

It produces the same results as the native engine, bit for bit, from the same descriptions, but more slowly.
"""

from dm.engine.python_engine.engine import PythonEngine

__all__ = ["PythonEngine"]
