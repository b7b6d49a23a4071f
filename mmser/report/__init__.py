"""Run folders and ablations as a table for the paper, and as one page that shows what stands behind it."""

from mmser.report.explorer import write_explorer
from mmser.report.run import Written, explore, write_report

__all__ = ["Written", "explore", "write_explorer", "write_report"]
