"""Long runs that try to break obsdiff: `make stress`. A small sample of each is among the tests."""
