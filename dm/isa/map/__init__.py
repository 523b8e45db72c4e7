"""The opcode map and what is read from it: forms, decoder, disassembler, assembler, and which forms tests execute."""
