"""Connection strings: checked, kept out of sight, and what a refusal of them means. No I/O."""
