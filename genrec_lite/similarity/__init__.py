"""Similarities between a query and an item, with the item side computed once."""
