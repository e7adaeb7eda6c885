"""Images from and to registries, by skopeo."""
