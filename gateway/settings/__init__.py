"""What the files say: read, check, compile into the frozen types of core. The only home of YAML."""
