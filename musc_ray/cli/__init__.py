"""The command line: verbs, options, terminal output, status."""

from musc_ray.cli.app import app, main

__all__ = ["app", "main"]
