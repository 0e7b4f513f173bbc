"""Benchmarks: what tallyd does in a second, as a ratio to what the same machine does bare. See README.md."""
