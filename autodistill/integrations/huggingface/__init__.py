"""Searches in transformers' Trainer."""
