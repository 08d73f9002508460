"""The search for the fastest settings that keep masks: `gmos-export tune`."""
