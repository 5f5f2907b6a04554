"""Device drivers. One file each, with no knowledge of the protocols above."""
