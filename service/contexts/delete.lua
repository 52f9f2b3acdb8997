-- Forget a context's record, and note that whoever counts it has to be told.
-- KEYS: record, index, records by fingerprint, transient contexts by when they were last brought along, contexts that
--       are gone and may still be counted
-- ARGV: context id, since when a transient one must not have been brought along ('' for whatever it is), what it may be
--       known by
-- Replies 'gone' or 'used'.
if ARGV[2] ~= '' then
  local last = redis.call('ZSCORE', KEYS[4], ARGV[1])
  if not last or tonumber(last) > tonumber(ARGV[2]) then return 'used' end
end
redis.call('ZREM', KEYS[2], ARGV[1])
for i = 3, #ARGV do
  if redis.call('HGET', KEYS[3], ARGV[i]) == ARGV[1] then redis.call('HDEL', KEYS[3], ARGV[i]) end
end
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('SADD', KEYS[5], ARGV[1])
redis.call('DEL', KEYS[1])
return 'gone'
