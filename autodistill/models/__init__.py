"""Looking into any nn.Module and running it."""
