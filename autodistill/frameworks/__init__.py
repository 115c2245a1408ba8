"""The interface of a search to the tensor library, and its implementation for PyTorch."""
