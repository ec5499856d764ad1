"""Executors, worker pool, progress, telemetry."""
