"""Which layers and networks compute in eight bits, and what that costs."""
