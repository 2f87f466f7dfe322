"""The steps of the pipeline that come with pyrotome; light to import, see `protocols.steps`."""
