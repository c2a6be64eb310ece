"""What holds, in the words of the domain: given, when, then."""
