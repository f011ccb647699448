"""What SECURITY.md promises: TLS, secrets that stay secret, options that nobody smuggles in."""
