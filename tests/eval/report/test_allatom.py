"""Cards of all-atom checkpoints, from figures made up."""

from eval.report.allatom import nucleic_card, peers, sidechain_card

SPREAD = {"mean": 0.4, "median": 0.3, "p95": 0.9}
SIDECHAINS = {
    "bits": 24.0, "rmsd": SPREAD, "rmsd_of": {"N, CA, C": 0.1, "O": 0.2, "side chain": 0.5}, "chi_kept": [0.98, 0.9],
    "types": {"A": {"residues": 1200, "rmsd": 0.1, "rmsd_alike": 0.1, "chi_kept": [], "uncoded": 0},
              "D": {"residues": 900, "rmsd": 0.3, "rmsd_alike": 0.2, "chi_kept": [0.9, None], "uncoded": 3},
              "G": {}},
    "bond_error": {"rebuilt": 0.01, "input": 0.02}, "out_of_plane": {"rebuilt": 0.01, "input": 0.02},
    "residues_per_core_second": {"encode": 1e4, "decode": 2e4}, "chains": 10, "residues": 2100, "wrong_hands": {"I": 0},
    "chains_without_new_clash": 0.5,
}  # fmt: skip
SIDECHAINS["exact"] = {**SIDECHAINS, "rmsd": {"mean": 0.3, "median": 0.2, "p95": 0.8}, "chains_without_new_clash": 0.75}
ONE = {
    "chains": 5, "nucleotides": 300, "rmsd_frame": SPREAD, "rmsd": SPREAD, "base_pairs": {"agree": 0.9},
    "pucker_kept": 0.8, "link": {"rms_off": 0.1},
}  # fmt: skip
NUCLEIC = {
    **dict.fromkeys(("all", "RNA", "DNA"), ONE), "bits": 24.0, "by_length": {"1-20": {"rmsd": 0.5, "chains": 4}},
    "uncoded": 1, "nucleotides_per_core_second": {"encode": 1e3, "decode": 1e4},
    "damaged": {"chains": 7, "repaired_undamaged": 0, "undamaged": 0.2, "0.05": {"anchors": 1.5, "alone": 9.0}},
}  # fmt: skip


def test_side_chains_by_type():
    text = sidechain_card("chain+side", SIDECHAINS)
    assert "| chain+side | 24 | 0.400 | 0.300 | 0.900 | 0.100 | 0.200 | 0.500 | 98.00% |" in text
    assert (
        "| the same, `rate_weight=0` | 24 | 0.300 | 0.200 | 0.800 |" in text
        and "50.0%, with `rate_weight=0` 75.0%" in text
    )
    assert "| A | 1,200 | 0.100 | 0.100 | – | – | – | – | 0 |" in text
    assert "| D | 900 | 0.300 | 0.200 | 90.0% | – | – | – | 3 |" in text
    assert "| G |" not in text


def test_nucleic_chains_by_kind_and_beside_others():
    line = "| RNA | 5 | 300 | 0.400 | 0.300 | 0.900 | 0.400 | 0.300 | 0.900 | 90.0% | 80.0% | 0.10 |"
    assert line in nucleic_card(NUCLEIC) and "5% 1.50 Å (without anchors 9.0)" in nucleic_card(NUCLEIC)
    other = {"model": "x", "what": "RNA", "bits": "many", "rmsd": "0.5 to 0.6", "differs": "elsewhere"}
    text = peers({"proteins": {"a": SIDECHAINS}, "nucleic": {"b": NUCLEIC}, "published": [other]})
    assert "| b | DNA | 24 per nucleotide | 0.400 | validation clusters |" in text
    assert "| x | RNA | many | 0.5 to 0.6 | elsewhere |" in text
