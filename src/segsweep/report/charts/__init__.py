"""Charts as inline SVG. Their colours are CSS custom properties: light, dark and print come from the page around."""
