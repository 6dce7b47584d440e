"""Segmenters: one file per architecture, usable with torch alone.

A segmenter is an ``nn.Module`` that maps an image (N, C, H, W) to a ``SegmenterOutput`` at the same size. One that can
be pretrained has ``encoder`` (image -> list of maps, fine to coarse) and ``encoder.out_channels``. To add one: a class
here (or in any package of yours) and a file in ``conf/model/`` that names it; the contract tests find it there.
"""
