"""Images: what they are made from, how they are stored, built and moved."""
