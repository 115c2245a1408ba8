"""Distillation without a search."""
