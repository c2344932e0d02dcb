"""Users of the library: the toy problems of the papers, and the collectors of data."""
