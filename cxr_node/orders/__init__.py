"""The stage that knows what the RIS ordered, by HL7 and by its Modality Worklist. It raises, never lowers."""

from cxr_node.orders.stage import run_orders

__all__ = ["run_orders"]
