"""The daemon: supervisor, workers, sessions, vCPUs."""
