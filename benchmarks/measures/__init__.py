"""One module per measure; each has ``measure(driver, job) -> sample``."""
