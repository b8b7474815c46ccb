"""Networks and what must be known to use them."""
