"""Preparation: steps that add fields to records, one shard at a time."""
