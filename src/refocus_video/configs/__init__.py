"""Settings that come with the package, one YAML file each; see :mod:`refocus_video.config`."""
