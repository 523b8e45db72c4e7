"""One short description of each instruction, in modules by family."""
