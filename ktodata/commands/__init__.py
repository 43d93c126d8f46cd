"""The click commands of `ktodata`, a file each: options, one call of a library function, a summary."""
