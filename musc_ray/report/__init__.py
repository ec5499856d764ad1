"""The report page of a run: one self-contained HTML file that shows the most anomalous images of every group."""

from musc_ray.report.data import GroupReport, RunReport, WorstImage
from musc_ray.report.page import render

__all__ = ["GroupReport", "RunReport", "WorstImage", "render"]
