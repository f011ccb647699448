"""Shim for tools that still run setup.py; everything is declared in setup.cfg."""

from setuptools import setup

setup()
