-- Keep the record of a new upload, unless the tenant has too many.
-- KEYS: upload, uploads by their end   ARGV: upload id, record, now, seconds that it stays open, how many may be
if redis.call('EXISTS', KEYS[1]) == 1 then return 'open' end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[5]) then return 'full' end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[4])
redis.call('ZADD', KEYS[2], tonumber(ARGV[3]) + tonumber(ARGV[4]), ARGV[1])
return 'open'
