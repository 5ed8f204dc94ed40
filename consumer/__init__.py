"""Kafka on one side, operators on the other, the meter in between."""
