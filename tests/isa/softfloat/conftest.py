import sys
from pathlib import Path

# The tests here share exact.py and printed.py.
sys.path.insert(0, str(Path(__file__).resolve().parent))
