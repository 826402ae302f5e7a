"""The trainer. Import what you need from its modules."""
