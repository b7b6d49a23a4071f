"""Run folders and ablations as a table for the paper, and as one page that shows what stands behind it."""

from mmser.report.run import Written, write_report

__all__ = ["Written", "write_report"]
