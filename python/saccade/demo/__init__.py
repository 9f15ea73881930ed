"""One command that draws clips dense and with LiteAttention, and compares them."""
