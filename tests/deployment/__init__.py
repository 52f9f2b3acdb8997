"""Deploying: images, Compose, and that their files agree with the service."""
