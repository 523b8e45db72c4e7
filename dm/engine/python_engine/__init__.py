"""The Python engine: the readable reference, and what runs where no C compiler is.

It makes the same results as the native engine, bit for bit, from the same descriptions; only slower.
"""

from dm.engine.python_engine.engine import PythonEngine

__all__ = ["PythonEngine"]
