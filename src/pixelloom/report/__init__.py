"""Models side by side as an HTML page and as a PNG.

``collect`` loads, samples and measures the models, ``model`` holds what was collected and groups comparable results,
``charts`` draws the training curves of several runs, ``html`` and ``png`` lay everything out.
"""
