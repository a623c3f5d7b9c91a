"""The operator's commands: one file a family, each a thin call to the cloud and a table of what came back."""
