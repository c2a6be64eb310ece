"""What each projection consumed, compared with the log; and entities that are parked."""
