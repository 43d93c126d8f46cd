"""Asking models for replies: back ends, what they are asked, and the journal that a killed run continues from."""
