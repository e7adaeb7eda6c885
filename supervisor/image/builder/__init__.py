"""Building images: what a Dockerfile asks for, step by step, into layers."""
