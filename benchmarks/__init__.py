"""Measurements that back the published figures."""
