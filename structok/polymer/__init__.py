"""Chains of rigid frames: steps, closed-loop search, bridges, anchors, repair. Knows no residue names."""
