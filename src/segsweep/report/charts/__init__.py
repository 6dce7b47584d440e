"""Charts as inline SVG whose colours are CSS custom properties: light, dark and print come from the page around them."""
