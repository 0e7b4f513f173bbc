"""What every test, load test and benchmark starts and asks a system with."""
