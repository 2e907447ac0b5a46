"""Whole gradient updates of sparse MLP policies, compiled."""
