"""An exact and fast KTO trainer, driven by one TOML recipe."""

__version__ = "0.1.0"
