"""Training recipes. Nothing in `structok` imports them."""
