"""Representations: entity tags and conditions, HEAD and OPTIONS, links of pages, compression."""
