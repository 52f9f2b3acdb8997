-- Note something beside a run that is there; nothing for one that is not (any more).
-- KEYS: run   ARGV: field, value
-- Replies 1 when it is there.
if redis.call('HEXISTS', KEYS[1], 'epoch') == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
