"""The report of a run: one HTML page."""

from amatune.report.page import make_report

__all__ = ["make_report"]
