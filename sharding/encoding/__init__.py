"""How shards get codes and features: clips read in loader workers, encoded batch by batch, written shard by shard."""
