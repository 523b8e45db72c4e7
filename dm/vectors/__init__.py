"""Recorded hardware tests: readers of their formats, and the runner that checks an engine against them.

A reader turns a file into :class:`~dm.vectors.case.Case` objects and names the *world* they run in: the memory map
around them and how one of them is run to its end.  The runner knows neither format nor world.
"""
