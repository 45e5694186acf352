"""`python -m train.protein`."""

from train.protein.fit import main

main()
