"""``segsweep-evaluate``: scores finished runs on any split, on other data, with other views, or several as one."""
