"""A made-up shop: its catalogue, its shoppers, and what they really want."""
