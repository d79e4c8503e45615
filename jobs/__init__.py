"""Work that ends. Does not know that serving exists."""
