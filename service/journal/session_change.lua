-- Change one field of a session that exists; nothing for one that does not.
-- KEYS: session   ARGV: command, field, value
if redis.call('EXISTS', KEYS[1]) == 0 then return nil end
return redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3])
