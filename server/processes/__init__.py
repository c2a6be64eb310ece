"""The processes that a running installation consists of, and what supervises them."""
