"""Where raw data comes from: a user's own files, MovieLens, Globo news, Gowalla, the simulator of a drifting shop."""
