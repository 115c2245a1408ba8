"""Students that start inside their teacher: in the principal subspace of its residual stream."""
