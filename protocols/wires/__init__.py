"""One codec per vendor wire: bytes to messages and back, without any I/O."""
