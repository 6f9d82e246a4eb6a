"""Benchmark-targeted ranking (BETR, arXiv 2507.12466): which documents of a corpus serve a set of tasks."""
