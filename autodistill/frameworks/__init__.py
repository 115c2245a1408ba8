"""What touches tensors on behalf of a search."""
