-- Keep the record of a new upload, unless there are too many at one of its levels: its tenant, its key, the keys above.
-- KEYS: upload, the tenant's uploads by their end, then those of each key
-- ARGV: upload id, record, now, seconds that it stays open, how many the tenant may have, how many a key
-- Replies 'open', 'full' (the tenant) or 'key_full'.
if redis.call('EXISTS', KEYS[1]) == 1 then return 'open' end
for i = 2, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', ARGV[3])
  if redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[i == 2 and 5 or 6]) then return i == 2 and 'full' or 'key_full' end
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[4])
for i = 2, #KEYS do
  redis.call('ZADD', KEYS[i], tonumber(ARGV[3]) + tonumber(ARGV[4]), ARGV[1])
  redis.call('EXPIRE', KEYS[i], ARGV[4])
end
return 'open'
