"""Tests of what an operator deploys: compose.yaml and the files in deploy/."""
