"""Evaluation and benchmarks. Nothing in `structok` imports them."""
