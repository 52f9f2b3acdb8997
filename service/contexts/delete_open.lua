-- Forget an open context, and note that whoever counts it has to be told.
-- KEYS: open context, open contexts by when they end, contexts that are gone and may still be counted
-- ARGV: context id
-- Replies 'gone', or 'absent' when there was none.
if redis.call('DEL', KEYS[1]) == 0 then return 'absent' end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
return 'gone'
