"""Generators behind one small protocol: rows of prompts in, rows of completions out."""
