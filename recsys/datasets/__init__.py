"""Where raw data comes from: a user's own files, public data sets, the simulator of a drifting shop."""
