"""Long runs that make the book's weights and results: `python -m dnet_lib.reproduce synthesis --category toilet`."""
