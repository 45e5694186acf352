"""DNA and RNA: chains of rigid frames with one conformer code for the other atoms of each nucleotide."""
