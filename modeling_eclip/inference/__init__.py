"""Embedding many products quickly.

`embed` is the entrance (`embed_products`): it makes batches of titles of like lengths, and of images. `fields` joins
several texts of a product to one, and averages several vectors. `pixels` turns
images into the image tower's inputs, `jpeg` decodes JPEG files no larger than needed for that, `resizing` resizes.
"""
