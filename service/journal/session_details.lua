-- Put a session's details in place of those that the caller has changed, unless they are others by now.
-- KEYS: session   ARGV: the details that were there ('' for none), the new ones
-- Replies 1, 0 when there are others, nothing for a session that does not exist.
if redis.call('EXISTS', KEYS[1]) == 0 then return nil end
if (redis.call('HGET', KEYS[1], 'details') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'details', ARGV[2])
return 1
