"""Rows of any known format in, token trees with trained spans out. Needs a tokenizer and no model."""
