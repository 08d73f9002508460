"""The second generator: cutouts with exact mattes that move over photographs, and what is measured on them."""
