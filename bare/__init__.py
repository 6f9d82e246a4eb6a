"""BARE: a base model drafts for breadth, an instruct model refines for quality; each row keeps origin and verdict."""
