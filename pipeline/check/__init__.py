"""What is held against a quant before it may be published: one module a kind, each a function to verdicts."""
