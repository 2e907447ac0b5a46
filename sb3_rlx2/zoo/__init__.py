"""rl-zoo3 with these algorithms; the command line."""
