"""What is counted and logged: counters, latency histograms, metrics exposition, structured logs."""
