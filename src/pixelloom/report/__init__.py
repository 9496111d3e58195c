"""Models side by side.

What is gathered of each (``gathering``, ``entries``), and how it is drawn: charts of both (``charts``), as a page
(``page``) and as a picture (``poster``).
"""
