"""`python -m train.molecule`."""

from train.molecule.fit import main

main()
