"""From events to rows: pure projectors, and the engine that follows the log and applies them."""
