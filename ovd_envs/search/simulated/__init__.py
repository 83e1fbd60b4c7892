"""A search engine without an index: passages are written for each query, useful or noisy."""
