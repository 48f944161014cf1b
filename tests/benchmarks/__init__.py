"""Benchmarks: run by hand, never by the tests. Each prints a table and one JSON line."""
