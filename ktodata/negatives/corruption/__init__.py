"""The operations of the `corrupt` strategy. Each takes a text and returns a worse one, or None when it cannot."""
