"""The search: trials, the directory, proposals and the loop."""
