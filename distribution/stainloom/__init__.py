"""Stainloom: new immunohistochemistry images from one real patch and label maps.

Installed, the program's parts lie in here: ``from stainloom import model, kernels``. In a clone, an editable install
included, they lie in the clone's folder instead, and ``import model`` works there.
"""
