"""The files that ship; installed as the package `crossfade_config`, so that an installation finds them."""
