"""A loaded bundle as plain functions: encode a query, embed it, retrieve, name the items. No HTTP and no log."""
