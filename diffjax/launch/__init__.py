"""What every launcher shares: flags, errors in one line, progress, measuring."""
