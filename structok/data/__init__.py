"""Data sets: structure files of any number to parquet shards, and shards to batches for training."""
