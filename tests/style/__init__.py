"""Rules about files that a test can check: few tests over all files, which list all offenders."""
