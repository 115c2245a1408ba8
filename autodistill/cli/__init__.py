"""The command line: one file describes a search."""
