"""The report: reads what a run or a pipeline left and writes one HTML file. Never torch."""

from posttrain.report.page import Written, write_report

__all__ = ["Written", "write_report"]
