"""Data: sources that know where images and masks come from, the cache that decodes them once, and the DataModule.

To add a dataset of image and mask files: one YAML file in ``conf/data/`` over the ``Folder`` source. For anything else:
one class that satisfies ``segsweep.data.storage.Source`` and one YAML file that names it.
"""
