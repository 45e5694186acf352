"""`python -m train.lm`."""

import typer

from train.lm.fit import main

typer.run(main)
