"""The commands `import`, `process` and `export`."""
