"""What each projection has consumed: its coverage ledger, its checks, and parked entities."""
