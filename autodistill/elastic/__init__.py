"""Elastic students: one training for all architectures of a space."""
