-- End an open context that nobody has added to for too long, and note that whoever counts it has to be told.
-- KEYS: open context, open contexts by when they end, record of the context that it may have become, contexts that are
--       gone and may still be counted
-- ARGV: context id, now
-- Replies 'ended', 'sealed' or 'open'.
local ends_at = redis.call('ZSCORE', KEYS[2], ARGV[1])
if ends_at and tonumber(ends_at) > tonumber(ARGV[2]) then return 'open' end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('EXISTS', KEYS[3]) == 1 then return 'sealed' end
redis.call('SADD', KEYS[4], ARGV[1])
return 'ended'
