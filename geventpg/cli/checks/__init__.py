"""What `doctor` looks at, a file for each place. Functions return findings and print nothing."""
