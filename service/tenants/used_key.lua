-- Note when a key was last used; a key that is gone stays gone, and time does not run backwards.
--
-- KEYS: the key
-- ARGV: now
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if tonumber(redis.call('HGET', KEYS[1], 'last_used') or '0') < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'last_used', ARGV[1])
end
return 1
