"""Commands: what can be asked of the log, and the rules that span more than one entity."""
