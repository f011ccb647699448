"""The single statements of many greenlets, over few connections."""
