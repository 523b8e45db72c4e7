"""The wire contract between shim and daemon: text, schema, golden messages and the Python codec."""
