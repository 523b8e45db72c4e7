"""The native engine: C runtime, and the generator that prints the instruction descriptions as C.

``python -m dm.engine.native.build`` builds the extension ``dm.engine._native`` in the source tree.
"""
