"""`socialtag serve`: a page and an API that suggest tags for photos."""
