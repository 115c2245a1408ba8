"""Searches with the Trainer of the transformers library."""
