"""Bytes from URIs: from disks, object stores and web servers, within what the user allows."""
