"""Collecting data: the data sets that the program makes by itself."""
