"""The executors and probers that come with oncall-agent: one system per file, found by entry points alone."""
