"""Codebooks: the quantizer that learns one, the nearest-code lookup, and closed-loop assignment."""
