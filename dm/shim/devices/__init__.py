"""The chips of the small PC.  Each knows its ports, its clock and its interrupt line, and nothing else."""
