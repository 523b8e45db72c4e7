"""The subcommands of ``x86-dm``, a module each: its options, and what it prints."""
