"""`foodray doctor`: whether a cluster and its storage are fit for a long run, asked of every node, and what to mend."""

from foodray.doctor.examine import examine
from foodray.doctor.findings import DoctorConfig, Finding, Report

__all__ = ["DoctorConfig", "Finding", "Report", "examine"]
