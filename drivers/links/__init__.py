"""Connections to instruments: TCP, serial, HTTP and ZeroMQ, each with deadlines."""
