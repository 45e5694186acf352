"""Tokens of very many structures: worker processes or a Ray cluster, a folder of shards, resumed where it stopped."""
