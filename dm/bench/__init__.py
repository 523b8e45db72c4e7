"""Measurements: `x86-dm bench`."""
