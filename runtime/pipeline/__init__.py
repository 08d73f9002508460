"""From frames to masks: encoders, heads, the two stages of the propagator and what they remember."""
