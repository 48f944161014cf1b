"""The worklist: web page, JSON API, health and metrics, and the DICOM worklists. It reads results and changes none."""

from cxr_node.worklist.stage import run_worklist

__all__ = ["run_worklist"]
