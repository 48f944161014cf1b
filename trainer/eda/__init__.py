"""What is in a cohort before anything is learned from it, and what a model could learn that is no anatomy."""

from trainer.eda.explore import EDA, SCHEMA, explore

__all__ = ["EDA", "SCHEMA", "explore"]
