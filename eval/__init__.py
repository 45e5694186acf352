"""Evaluation and benchmarks. Nothing in `structok` imports them."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"  # what was measured, from which all tables and pages are made
