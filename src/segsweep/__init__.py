"""segsweep: which segmenter is better for my images, by how much, and at what cost?"""

__version__ = "0.1.0"
