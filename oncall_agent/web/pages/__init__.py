"""The pages of the dashboard: one file per page, each reads the store and hands values to a template."""
