"""Small language models on structure tokens: `python -m train.lm`; the shipped vocabulary: `train.lm.vocabulary`."""
