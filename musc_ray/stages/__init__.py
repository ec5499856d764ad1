"""The stages of a run in the order an image passes them: catalog, extract, mutual, reduce, publish, report.

Orchestration only: what is computed lives in `musc_ray.core`, what is stored in `musc_ray.storage`.
"""
