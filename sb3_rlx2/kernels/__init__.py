"""Compiled CPU code: vectors, products of sparse layers with tiles of a batch, their autograd function."""
