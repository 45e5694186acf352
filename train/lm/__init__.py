"""Small language models on structure tokens (`python -m eval.lm`); the shipped vocabulary: `train.lm.vocabulary`."""
