"""The patients of the demo: small real processes that fall ill and get well."""
