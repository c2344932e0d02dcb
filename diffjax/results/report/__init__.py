"""A report of results as one HTML page that needs nothing else: no network, no other file, no program to read it."""
