"""Metrics of a student: what they are, and how they are measured."""
