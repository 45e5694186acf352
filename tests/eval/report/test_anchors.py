"""Tables of anchors, from figures made up."""

from eval.report.anchors import anchors


def figures(rmsd, **more):
    return {"rmsd": {"n": 9, "mean": rmsd, "p95": 2 * rmsd}, "tm_score": {"mean": 0.9}, "lddt": {"mean": 0.8}, **more}


def both(with_anchors, without):
    ways = {"with anchors": with_anchors, "without": without}
    return {how: figures(x, **{"by length": {"50-99": figures(x / 2)}}) for how, x in ways.items()}


CHAINS = {
    "chains": 9, "spacing": 6, "more tokens": 0.17, "chains that repair changes": 0,
    "undamaged": figures(0.1), "undamaged, without anchors": figures(0.1),
    "kept under noise": {"0.1": {"anchors": 0.9, "radius": 0.96}},
    "0.01 wrong": both(0.5, 8.0), "0.05 wrong": both(2.0, 18.0),
}  # fmt: skip
WHOLE = {
    "chains": CHAINS, "cpu seconds": {"encode": 3.0, "encode without anchors": 2.0, "decode": 3.0,
                                      "decode without anchors": 2.0}, "multichain": figures(0.13),
    "protein_ligand": figures(0.19, **{"free of new clashes with N, CA, C": 1.0}),
}  # fmt: skip


def test_rates_and_lengths_are_always_there():
    text = anchors(WHOLE)
    assert "| 1.0% | 0.50 | 0.900 | 0.80 | 8.00 | 0.900 | 0.80 | – |" in text
    assert "| 50-99 | 9 | 0.25 | 0.900 | 4.00 | 0.900 | 1.00 | 0.900 | 9.00 | 0.900 |" in text
    assert "1.50 times as long" in text and "90% at 0.1 Å" in text and "0.130 Å over N, CA, C" in text
    assert "CASP14" not in text and "side chain" not in text and "molecules" not in text


def test_other_parts_where_they_were_measured():
    rates = {"0.01 wrong": figures(0.3), "0.05 wrong": figures(1.0)}
    spacing = {"more tokens": 0.25, "undamaged": figures(0.1), "chains that repair changes": 2, **rates}
    heavy = {
        k: {"n": 24, "mean": v}
        for k, v in {"undamaged": 0.1, "one code wrong": 0.6, "own frame": 0.2, "frame of a complex": 0.3}.items()
    }
    text = anchors(
        WHOLE
        | {
            "casp14": CHAINS,
            "kinds": {"chains": 3, "codes only": rates, "open loop": both(1.5, 8.4)},
            "spacings": {"chains": 3, "4": spacing},
            "side chains": {"n": 60, "free of new clashes with side chains": 0.99},
            "molecules": {"heavy atoms, Å": heavy, "right code found": {"own frame": 0.5, "frame of a complex": 0.25}},
        }
    )
    assert "| codes only | 0.30 | 0.900 | 0.80 | 1.00 | 0.900 | 0.80 |" in text
    assert "open loop: 1.50 Å, 8.40 Å without repair" in text
    assert "| 4 | 25% | 0.10 | 2 | 0.30 | 0.900 | 1.00 | 0.900 |" in text
    assert "CASP14, 9 whole chains" in text and "99.0% of 60 with a side chain" in text
    assert "costs 0.60 Å over heavy atoms (0.10 without, 24 ligands)" in text
