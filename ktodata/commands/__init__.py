"""The click commands of `ktodata unpair` and `ktodata presets`: options, one call, a summary."""
