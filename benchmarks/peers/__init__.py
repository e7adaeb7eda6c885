"""Other supervisors, beside which ours is measured in the same run."""
