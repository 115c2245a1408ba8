"""Metrics of a student: their definitions and their measurement."""
