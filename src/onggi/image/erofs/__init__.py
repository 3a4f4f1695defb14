"""Layers that are mounted without unpacking: EROFS metadata that refers into the layer's tar."""
