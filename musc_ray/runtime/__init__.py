"""Executors, worker pool, progress, telemetry.

executor.py          the seam: what an executor promises, and which one a command gets
process_executor.py  this process: calls on threads; results.py keeps what waits on disk beyond a limit
ray_executor.py      Ray: actors that serve all stages; cluster.py joins or starts a cluster; telemetry.py exports
pool.py              gives the tasks of a stage to workers of a role (worker.py), retries and replaces
progress.py          what the terminal shows
"""
