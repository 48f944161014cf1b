"""The web side of the worklist: pages, API, accounts. See `app.create_app`."""
