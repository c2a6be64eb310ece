"""What the code looks like."""
