"""TCP over net.stack, without input or output of its own (RFC 9293)."""
