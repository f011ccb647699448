"""Single statements of many greenlets on few connections: whose answer is whose."""
