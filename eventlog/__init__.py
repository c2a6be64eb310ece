"""The log itself: append, read, follow, upcast. The one place that knows how events lie in SQL."""
