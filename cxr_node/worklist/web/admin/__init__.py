"""Pages of the node's administrators: how the node stands, and what they decide."""
