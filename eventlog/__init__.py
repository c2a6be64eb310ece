"""The log: append, read, follow, upcast. Only this package knows how events are stored."""
