"""Tests of Annals' processes."""
