"""What SECURITY.md promises: TLS, secrets that stay secret, options that cannot be smuggled in."""
