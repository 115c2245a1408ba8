"""Losses, criteria and feature matchers."""
