"""Filters: what is not worth training on, said row by row, with the reason."""
