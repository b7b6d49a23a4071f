"""What is wrong with a corpus, before anything is extracted or trained from it."""

from mmser.doctor.findings import Diagnosis, Finding, Limits
from mmser.doctor.run import diagnose

__all__ = ["Diagnosis", "Finding", "Limits", "diagnose"]
