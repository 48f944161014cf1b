"""The stage that takes studies in: C-STORE to durable bytes, row and job. See `stage.run_receive`."""

from cxr_node.receive.stage import run_receive

__all__ = ["run_receive"]
