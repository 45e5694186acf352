"""Tokens and structures to files, whole or not at all."""
