"""The service as real processes against real servers, broken on purpose, judged from outside."""
