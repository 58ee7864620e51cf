"""WebDataset: tar files of samples, from disk or URL, as an indexed `ImageSet`."""

from tima.data.wds.reader import looks_like_shards, read_shard_captions, read_shards

__all__ = ["looks_like_shards", "read_shard_captions", "read_shards"]
