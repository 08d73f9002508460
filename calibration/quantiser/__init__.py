"""How a layer is quantised: formats, ranges, rounding."""
