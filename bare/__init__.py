"""BARE: a base model drafts for breadth, an instruct model refines for quality; every row keeps its origin and verdict."""
