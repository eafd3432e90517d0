"""One machine: embedded Redis, the supervisor of all parts, `crossfade up` and the demo."""
