"""Questions about videos: records on disk, and the haystack generator that makes videos with known answers."""
