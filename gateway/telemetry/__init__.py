"""What the gateway says about itself: counters, metrics, logs."""
