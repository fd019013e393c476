"""The report of a run: one HTML page."""

from amatune.extras import require_extra

require_extra("report")

from amatune.report.page import make_report  # noqa: E402

__all__ = ["make_report"]
