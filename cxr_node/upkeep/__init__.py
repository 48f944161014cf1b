"""The stage that keeps the node well: expired leases, abandoned files, retention, self-test. See `stage.run_upkeep`."""

from cxr_node.upkeep.stage import run_upkeep

__all__ = ["run_upkeep"]
