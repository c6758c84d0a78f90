"""An evaluation as one page that opens anywhere: arithmetic in plain functions, then figures, then the page.

`evaluation_page` makes the report of one evaluation, `comparison_page` that of two.
"""
