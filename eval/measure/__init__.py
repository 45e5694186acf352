"""What is measured, and on what: accuracy, stability, robustness, rate, and what codes tell."""
