"""Write everything that is made from `eval/results/*.json`: tables of README and of the cards, and the HTML report.

    python -m eval.report                    all of it
    python -m eval.report FOLDER --small     only the report of a folder of results, or of its small mode

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; everything between is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eval import RESULTS
from eval.report.allatom import fill_allatom
from eval.report.anchors import fill_anchors
from eval.report.cards import fill_proteins
from eval.report.gpu import fill_gpu
from eval.report.lm import fill_learnability
from eval.report.molecules import fill_molecules
from eval.report.network import fill_network
from eval.report.page import write_report
from eval.report.structtokenbench import fill_structtokenbench
from eval.report.training import fill_training


def main(
    folder: Annotated[Path, typer.Argument(help="where the results are, and the report goes")] = RESULTS,
    small: Annotated[bool, typer.Option("--small", help="report the small mode's results")] = False,
) -> None:
    """Write README's tables, the cards' tables and the report."""
    if folder == RESULTS and not small:
        fill_proteins()
        fill_molecules()
        fill_learnability()
        fill_structtokenbench()
        fill_allatom()
        fill_gpu()
        fill_anchors()
        fill_training()
        fill_network()
    print(write_report(folder, small=small))


if __name__ == "__main__":
    typer.run(main)
